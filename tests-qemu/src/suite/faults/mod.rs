//! Faults on real Xen: in each phase of a migration something breaks, and exactly one guest must come out of it, whole.
//! `docs/reliability.md` has the table of all faults, phases and outcomes.

mod agents;
mod attempt;
pub mod command;
mod guests;
mod homecoming;
pub mod lent;
mod link;
mod pairs;
mod permissions;
mod requests;
mod scene;
mod toolstack;
mod two_step;

use super::{Test, adoption, crossings, loss, path, sealing, shutout};

/// The policy put to the test: dom0 attacks, on hosts that it then finds locked; and the policy without each of the agent's
/// permissions, a migration or two for each. An ordinary run draws neither.
pub const POLICY: &[Test] = &[
    Test { name: "dom0_is_shut_out_for_the_whole_way", run: shutout::whole_way },
    Test { name: "dom0_reaches_no_card_that_is_sealed", run: sealing::card_is_out_of_reach },
    Test { name: "each_permission_on_guests_that_left_is_needed", run: permissions::on_guests_that_left },
    Test { name: "each_permission_on_arriving_guests_is_needed", run: permissions::on_arriving_guests },
    Test { name: "each_permission_on_running_guests_is_needed", run: permissions::on_running_guests },
];

/// Those that an ordinary run may draw: each has passed.
pub const TESTS: &[Test] = &[
    Test { name: "save_helper_killed_while_copying", run: toolstack::save_helper_killed_while_copying },
    Test { name: "save_helper_killed_while_suspended", run: toolstack::save_helper_killed_while_suspended },
    Test { name: "restore_helper_killed_while_suspended", run: toolstack::restore_helper_killed_while_suspended },
    Test { name: "sender_killed_while_suspended", run: toolstack::sender_killed_while_suspended },
    Test { name: "receiver_killed_while_copying", run: toolstack::receiver_killed_while_copying },
    Test { name: "receiver_killed_while_suspended", run: toolstack::receiver_killed_while_suspended },
    Test { name: "ctrl_c_while_listening", run: toolstack::ctrl_c_while_listening },
    Test { name: "ctrl_c_while_suspended", run: toolstack::ctrl_c_while_suspended },
    Test { name: "cancel_while_listening", run: toolstack::cancel_while_listening },
    Test { name: "cancel_while_suspended", run: toolstack::cancel_while_suspended },
    Test { name: "guest_comes_back_whole_when_a_vif_script_fails", run: homecoming::vif_script_fails },
    Test { name: "guest_comes_back_when_its_name_is_taken", run: homecoming::name_is_taken },
    Test { name: "guest_comes_back_when_its_copy_is_destroyed", run: homecoming::copy_is_destroyed },
    Test { name: "guest_comes_back_when_its_copy_is_unpaused", run: homecoming::copy_is_unpaused },
    Test { name: "guest_that_dom0_resumes_before_the_commit_stays", run: homecoming::resumed_before_the_commit },
    Test { name: "guest_stays_when_the_policy_is_not_enforced", run: homecoming::not_enforced },
    Test { name: "paused_guest_is_refused_at_once", run: homecoming::paused },
    Test { name: "link_cut_while_suspended", run: link::cut_while_suspended },
    Test { name: "link_back_in_time_in_stage_3", run: link::back_in_time_in_stage_3 },
    Test { name: "link_loses_one_percent", run: link::loses_one_percent },
    Test { name: "pause_in_stage_3", run: requests::pause_in_stage_3 },
    Test { name: "shutdown_in_stage_3", run: requests::shutdown_in_stage_3 },
    Test { name: "restore_helper_killed_while_copying", run: toolstack::restore_helper_killed_while_copying },
    Test { name: "ctrl_c_while_copying", run: toolstack::ctrl_c_while_copying },
    Test { name: "cancel_while_copying", run: toolstack::cancel_while_copying },
    Test { name: "guest_grows_beyond_the_target_while_copying", run: guests::grows_while_copying },
    Test { name: "guest_reboots_while_copying", run: guests::reboots_while_copying },
    Test { name: "guest_crashes_while_copying", run: guests::crashes_while_copying },
    Test { name: "guest_destroyed_while_copying", run: guests::destroyed_while_copying },
];

/// Those that have passed as well, and take more than a minute. An ordinary run does not draw them.
pub const LONG: &[Test] = &[
    Test { name: "go_lost", run: two_step::go_lost },
    Test { name: "link_back_late_in_stage_3", run: link::back_late_in_stage_3 },
    Test { name: "source_agent_killed_in_stage_3", run: agents::source_killed_in_stage_3 },
    Test { name: "target_agent_killed_in_stage_3", run: agents::target_killed_in_stage_3 },
    Test { name: "source_agent_killed_while_copying", run: agents::source_killed_while_copying },
    Test { name: "target_agent_killed_while_copying", run: agents::target_killed_while_copying },
    Test { name: "receiver_killed_before_go", run: two_step::receiver_killed_before_go },
    Test { name: "source_agent_killed_before_go", run: two_step::source_agent_killed_before_go },
    Test { name: "source_agent_and_sender_killed_before_go", run: two_step::source_agent_and_sender_killed_before_go },
    Test { name: "target_agent_killed_before_go", run: two_step::target_agent_killed_before_go },
    Test { name: "second_migration_in_stage_3", run: requests::second_migration_in_stage_3 },
    Test { name: "source_agent_killed_while_suspended", run: agents::source_killed_while_suspended },
    Test { name: "target_agent_killed_while_suspended", run: agents::target_killed_while_suspended },
    Test { name: "restarted_agent_finds_and_serves_absent_pages", run: adoption::pages_are_found_and_served },
    Test { name: "lost_packets_are_survived_without_datagrams", run: loss::is_survived_without_datagrams },
    Test { name: "sender_killed_before_go", run: two_step::sender_killed_before_go },
    Test { name: "ready_lost", run: two_step::ready_lost },
    Test { name: "report_lost", run: two_step::report_lost },
    Test { name: "sender_killed_while_copying", run: toolstack::sender_killed_while_copying },
    Test { name: "link_cut_while_copying", run: link::cut_while_copying },
    Test { name: "link_cut_between_hosts_while_copying", run: link::cut_between_hosts_while_copying },
    Test { name: "link_stalled_while_copying", run: link::stalled_while_copying },
    Test { name: "link_back_in_time_while_copying", run: link::back_in_time_while_copying },
    Test { name: "stock_save_in_stage_3", run: requests::stock_save_in_stage_3 },
    Test { name: "cancel_in_stage_3", run: requests::cancel_in_stage_3 },
    Test { name: "target_host_gone_while_copying", run: agents::host_gone_while_copying },
    Test { name: "guest_balloons_while_copying", run: guests::balloons_while_copying },
    Test { name: "guest_that_shrinks_while_copying_owns_no_more_than_it_has", run: guests::shrinks_while_copying },
    Test { name: "guest_reboots_in_stage_3", run: guests::reboots_in_stage_3 },
    Test { name: "guest_crashes_in_stage_3", run: guests::crashes_in_stage_3 },
    Test { name: "guest_destroyed_in_stage_3", run: guests::destroyed_in_stage_3 },
    Test { name: "target_host_gone_in_stage_3", run: agents::host_gone_in_stage_3 },
    Test { name: "two_guests_cross_in_opposite_directions", run: pairs::cross_in_opposite_directions },
    Test { name: "two_guests_cross_in_the_same_direction", run: pairs::cross_in_the_same_direction },
    Test { name: "one_of_two_migrations_fails_alone", run: pairs::fail_alone },
    Test { name: "target_memory_taken_while_copying", run: guests::memory_taken_while_copying },
    Test { name: "hop_of_1400_bytes_costs_only_time", run: path::hop_of_1400_costs_only_time },
    Test { name: "jumbo_frames_are_used", run: path::jumbo_frames_are_used },
    Test { name: "four_guests_leave_at_once_and_all_arrive", run: pairs::four_leave_at_once },
    Test { name: "watchdog_replaces_twenty_agents_that_crash_in_mid_stream", run: agents::twenty_crash_in_mid_stream },
    Test { name: "ten_vcpus_that_miss_their_pages_try_again_when_the_ring_fills_up", run: crossings::ten_vcpus },
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Test> {
    TESTS.iter().chain(LONG)
}
