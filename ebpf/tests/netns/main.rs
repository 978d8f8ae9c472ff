//! The program at a real interface, held by a real helper: two namespaces, a veth pair, native mode.
//!
//! This binary is its own test runner because it is also what it tests: started with `helper` it is the privileged helper,
//! with `owner` the data plane that has one (capabilities, kills and stops are of whole processes). The tests need root;
//! without it each says SKIPPED, and fails with `STOQ_REQUIRE_PRIVILEGED=1`.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod attached;
mod lab;
mod owner;
mod privileges;
mod vectors;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = fn();

const NEED_ROOT: &[(&str, Test)] = &[
    (
        "a_veth_pair_gets_the_program_in_its_driver",
        attached::a_veth_pair_gets_the_program_in_its_driver,
    ),
    (
        "where_native_cannot_be_generic_is_had_and_says_why",
        attached::where_native_cannot_be_generic_is_had_and_says_why,
    ),
    (
        "an_interface_that_has_a_program_is_refused",
        attached::an_interface_that_has_a_program_is_refused,
    ),
    (
        "other_ports_live_on_under_a_flood",
        attached::other_ports_live_on_under_a_flood,
    ),
    (
        "deny_and_allow_work_for_both_families",
        attached::deny_and_allow_work_for_both_families,
    ),
    (
        "a_validated_source_gets_in_while_newcomers_are_shed",
        attached::a_validated_source_gets_in_while_newcomers_are_shed,
    ),
    (
        "a_reload_takes_effect_without_attaching_anew",
        attached::a_reload_takes_effect_without_attaching_anew,
    ),
    (
        "a_killed_owner_takes_its_program_along",
        attached::a_killed_owner_takes_its_program_along,
    ),
    (
        "where_the_helper_dies_the_socket_judges_on",
        attached::where_the_helper_dies_the_socket_judges_on,
    ),
    (
        "a_stopped_owner_lets_everything_pass",
        attached::a_stopped_owner_lets_everything_pass,
    ),
    (
        "what_nobody_confirms_is_taken_back",
        attached::what_nobody_confirms_is_taken_back,
    ),
    ("what_is_confirmed_stays", attached::what_is_confirmed_stays),
    (
        "a_hand_over_leaves_no_packet_unjudged",
        attached::a_hand_over_leaves_no_packet_unjudged,
    ),
    (
        "who_is_known_stays_known_through_a_hand_over",
        attached::who_is_known_stays_known_through_a_hand_over,
    ),
    (
        "who_is_known_at_the_socket_is_known_to_the_program",
        attached::who_is_known_at_the_socket_is_known_to_the_program,
    ),
    (
        "a_hand_over_that_nobody_comes_for_is_taken_back",
        attached::a_hand_over_that_nobody_comes_for_is_taken_back,
    ),
    (
        "what_a_crash_left_over_is_taken_over_by_the_next_start",
        attached::what_a_crash_left_over_is_taken_over_by_the_next_start,
    ),
    (
        "an_interface_that_goes_is_noticed",
        attached::an_interface_that_goes_is_noticed,
    ),
    (
        "the_data_plane_has_no_capability_and_its_helper_few",
        privileges::the_data_plane_has_no_capability_and_its_helper_few,
    ),
    (
        "the_helper_binds_what_the_data_plane_cannot",
        privileges::the_helper_binds_what_the_data_plane_cannot,
    ),
    (
        "the_helper_does_nothing_beyond_its_mandate",
        privileges::the_helper_does_nothing_beyond_its_mandate,
    ),
    (
        "a_selector_that_was_loaded_before_goes_on_without_privileges",
        privileges::a_selector_that_was_loaded_before_goes_on_without_privileges,
    ),
    (
        "both_limiters_judge_the_same_datagrams_alike",
        vectors::both_limiters_judge_the_same_datagrams_alike,
    ),
];

const NEED_NOTHING: &[(&str, Test)] = &[
    (
        "garbage_does_not_end_the_helper_and_its_edges_end_does",
        privileges::garbage_does_not_end_the_helper_and_its_edges_end_does,
    ),
    (
        "a_helper_without_a_mandate_ends",
        privileges::a_helper_without_a_mandate_ends,
    ),
    (
        "a_helper_without_privileges_refuses_with_the_fix",
        privileges::a_helper_without_privileges_refuses_with_the_fix,
    ),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next();
    match (role.as_deref(), arguments.next()) {
        (Some("helper"), None) => {
            return match stoq_ebpf::helper::serve_stdin() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("helper: {error}");
                    ExitCode::FAILURE
                }
            };
        }
        (Some("owner"), Some(ports)) => {
            owner::run(&ports, arguments.next());
            return ExitCode::SUCCESS;
        }
        (Some("steerer"), None) => {
            privileges::steerer();
            return ExitCode::SUCCESS;
        }
        (Some("powerless"), None) => {
            privileges::powerless();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // Each measures times, and all share the processors.
    arguments.test_threads = Some(1);
    let need_root = NEED_ROOT
        .iter()
        .map(|(name, test)| Trial::test(*name, move || with_root(name, *test)));
    let need_nothing = NEED_NOTHING.iter().map(|(name, test)| {
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, need_root.chain(need_nothing).collect()).exit_code()
}

fn with_root(name: &str, test: Test) -> Result<(), Failed> {
    if rustix::process::geteuid().is_root() {
        test();
        return Ok(());
    }
    if std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1") {
        return Err(format!("{name}: not root, and STOQ_REQUIRE_PRIVILEGED=1").into());
    }
    println!("SKIPPED: {name}: namespaces and programs need root");
    Ok(())
}
