//! What the RFCs on caching ask for, section by section, seen from outside: a whole edge on real sockets, over each
//! version of HTTP, with and without a shield between it and the origin.
//!
//! A test is a table of [`case::Case`]s for a section; [`matrix::run`] walks through each six ways and says all that was not
//! as it must be. The pure functions behind have tables of their own beside them.

mod case;
mod companions;
mod conditional;
mod directives;
mod freshness;
mod invalidation;
mod matrix;
mod ranges;
mod selecting;
mod storing;
mod validation;
