//! Prints the table.
fn main() {}
