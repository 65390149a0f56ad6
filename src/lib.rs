//! changeover: the automatic changeover switch for TCP.
//!
//! A daemon that stands in front of backends, relays clients to one that is fit, and moves to the next
//! in milliseconds when it is not. Two planes: the **control plane** is one thread that decides, one that
//! probes and watches for it, and one that answers the admin API; the **data plane** is one thread per core that accepts, picks,
//! dials and relays. They meet in [`routing`] alone.
//!
//! The modules stand on floors, and imports only go down (`tests/tidy` is the wall):
//!
//! | floor | modules |
//! |---|---|
//! | 8 | [`demo`] |
//! | 7 | [`daemon`], [`cli`] |
//! | 6 | [`listener`] |
//! | 5 | [`session`], [`control`], [`admin`], [`webhook`] |
//! | 4 | [`relay`], [`probe`], [`watch`], [`tunnel`], [`settings`] |
//! | 3 | [`routing`], [`store`], [`dial`] |
//! | 2 | [`config`], [`sys`], [`telemetry`], [`wire`] |
//! | 1 | [`failover`] |
//! | 0 | [`model`] |
//!
//! # Invariants
//!
//! What always holds, whatever happens; after each, the tests that hold it.
//!
//! 1. One writer of the route table; readers never wait and keep their own snapshot.
//!    A pick takes no lock and allocates nothing, however many backends there are.
//!    Tests: `a_reader_keeps_its_own_snapshot_and_is_told_of_the_next`,
//!    `a_pick_allocates_nothing_among_ten_thousand_backends`.
//! 2. Generations grow by one, and a publish that changes nothing does not happen.
//!    Tests: `generations_grow_by_one`, `a_publish_that_changes_nothing_does_not_happen`.
//! 3. `unknown` is not healthy: before its first verdict a backend gets no session, and READY waits.
//!    Tests: `unknown_is_not_healthy`, `ready_comes_after_the_first_verdicts`.
//! 4. The new table is published before sessions are fenced; no session is admitted with an epoch below
//!    the last fence, checked again after the dial; when a fence returns, no byte of a fenced session
//!    reaches its client or its backend, and the clients that are left to be closed are closed at a pace.
//!    Tests: `the_table_is_published_before_sessions_are_fenced`,
//!    `no_session_is_admitted_with_an_epoch_below_the_last_fence`,
//!    `a_fence_of_those_that_open_leaves_those_that_have_begun`,
//!    `the_sessions_of_a_demoted_server_are_cut_and_those_of_another_go_on`,
//!    `a_session_fenced_while_it_dialled_is_stale`, `a_session_fenced_before_the_first_answer_keeps_its_client`,
//!    `when_a_fence_returns_no_byte_reaches_the_client`, `nothing_is_written_or_arrives_after_the_silence`,
//!    `nothing_of_a_message_arrives_after_its_fence`, `nothing_of_a_spliced_answer_arrives_after_its_fence`,
//!    `a_client_at_rest_beyond_the_pace_is_silent_and_waits_for_its_turn`,
//!    `a_busy_client_beyond_the_pace_is_silent_and_waits_if_nothing_is_on_its_way`,
//!    `a_crowd_that_loses_its_backend_is_closed_at_a_pace`, `a_busy_crowd_that_loses_its_backend_is_closed_at_a_pace`.
//! 5. A failing source of health is not a dead backend, and closes no session by default; nor is what any client can bring about.
//!    Tests: `an_unexpected_status_takes_a_backend_out_and_expected_ones_bring_it_back`,
//!    `a_program_takes_a_backend_out_and_brings_it_back`,
//!    `what_sessions_meet_at_a_server_has_it_asked_and_decides_nothing`, `a_storm_of_what_servers_do_not_understand_is_no_alarm`,
//!    `a_stranger_takes_nobody_out_who_answers_others`.
//! 6. The byte path takes no lock, allocates nothing, and waits for nothing but its two sockets.
//!    Tests: `the_byte_path_allocates_nothing`, `a_message_costs_one_receive_and_one_send`, `a_session_at_rest_is_small`,
//!    `a_busy_direction_lets_others_run`. Nor does it after a login was followed: `a_message_after_the_login_costs_one_receive_and_one_send`.
//! 7. Every byte read is delivered or its loss is reported: a byte in a buffer or a pipe is not yet counted,
//!    half-close passes through, and a reset is passed on only after the flush. An order that a backend may have read is sent to no other.
//!    Tests: `what_may_be_an_order_is_never_sent_twice`, `a_client_that_ends_first_gets_the_whole_answer`,
//!    `a_reset_by_the_backend_reaches_the_client_after_the_bytes`, `what_goes_in_comes_out_in_order_and_then_the_end`,
//!    `a_reset_of_the_source_in_mid_transfer_comes_after_what_was_moved`.
//! 8. Everything has a limit, and reaching it is counted.
//!    Tests: `the_client_after_the_last_allowed_one_is_closed_at_once_and_counted`,
//!    `a_listener_has_as_many_clients_as_it_may_and_a_place_is_free_again_after_the_end`,
//!    `a_flood_of_addresses_takes_no_more_memory_than_a_fixed_number_of_them`,
//!    `those_who_wait_for_a_standby_take_no_place_of_those_who_wait_for_the_primary`,
//!    `a_client_beyond_the_hold_limit_is_closed_at_once`, `a_limit_is_exact_under_200_clients_at_once`,
//!    `there_is_a_limit_and_what_is_beyond_it_is_counted`,
//!    `a_stranger_makes_servers_work_no_more_than_the_limit_and_stops_nobody_who_has_a_key`,
//!    `one_pipe_does_for_many_streams`, `two_hundred_programs_take_turns_and_leave_nothing`.
//! 9. Bad input never panics, and names what is wrong; a panic in one task ends no other.
//!    Tests: `any_bytes_give_the_same_however_they_are_split`, `no_bytes_make_it_panic`,
//!    `a_thousand_malformed_files_never_panic_and_always_name_a_place`, `a_panic_in_one_session_ends_no_other`,
//!    `whatever_a_store_or_a_caller_says_there_is_a_plan_and_no_panic`.
//! 10. A reload that fails changes nothing, and no secret is ever printed.
//!     Tests: `a_bad_file_changes_nothing_and_the_log_says_where_and_why`,
//!     `no_secret_is_ever_printed`, `no_secret_is_printed_by_check`, `no_secret_is_in_a_recording`,
//!     `no_credential_is_in_any_answer_log_line_or_event`,
//!     `no_caller_reads_the_daemons_files_or_runs_a_program_or_sets_a_secret`.
//! 11. An order that is refused changes nothing, and nobody gives one who has not proved that they may; a route that is in no table
//!     answers nobody. New sessions of a pinned pool go to what it is pinned to and nowhere else, and clients of a paused pool wait.
//!     Tests: `what_cannot_be_is_refused_with_the_reason`, `an_order_that_is_refused_says_why_and_changes_nothing`,
//!     `a_pinned_backend_serves_alone_until_failback`, `any_sequence_of_events_keeps_the_rules`,
//!     `clients_of_a_paused_pool_wait_whatever_the_policy_and_sessions_go_on`,
//!     `what_cannot_be_is_refused_with_a_code_and_changes_nothing`, `callers_over_tcp_can_change_nothing`,
//!     `every_route_for_every_kind_of_caller`, `what_is_in_no_table_answers_nobody`, `every_algorithm_takes_its_own_and_no_other`,
//!     `every_change_and_every_refusal_is_in_the_audit_trail`.
//! 12. What was said to be durable is there after a SIGKILL, an event's id is given once, and a disk that is
//!     full, broken or slow holds nobody up. What people ordered is in force again before the first verdicts, and is no news.
//!     Tests: `what_was_acknowledged_is_there_after_each_of_fifty_kills`, `drains_pins_and_pauses_outlive_a_restart`,
//!     `what_is_given_back_is_what_was_remembered_and_nobody_is_told`, `whatever_happens_the_rules_hold_and_the_pools_recover`,
//!     `what_was_acknowledged_is_there_after_forty_kills`, `a_full_disk_stops_nobody_and_loses_nothing`,
//!     `a_disk_that_is_really_full_stops_nobody_and_what_was_written_stays`, `a_disk_that_hangs_holds_nobody_up`.
//! 13. A cluster has one write target or none, and never one that is behind what was routed to; nobody reaches another primary
//!     through any target, and whoever was the primary is fenced whole before another one is written to.
//!     Tests: `whatever_happens_to_a_cluster_there_is_one_write_target_or_none`,
//!     `the_write_target_is_where_a_second_reckoning_says`,
//!     `an_old_primary_that_comes_back_gets_nobody_also_after_a_restart_of_ours`,
//!     `whoever_is_demoted_while_it_lives_is_fenced_before_another_one_writes`,
//!     `sessions_of_a_primary_that_was_named_anew_or_spelt_otherwise_go_with_its_role`,
//!     `sessions_of_a_primary_whose_name_is_given_to_another_server_are_fenced_before_that_is_written_to`,
//!     `readers_of_a_standby_that_was_named_anew_go_when_it_was_the_primary_and_is_none`,
//!     `nobody_reaches_a_primary_that_those_who_write_are_not_led_to_because_of_a_pin`,
//!     `nobody_reaches_a_primary_that_no_operator_has_named_without_automatic_failover`,
//!     `nobody_reaches_the_new_primary_before_the_old_one_is_fenced`,
//!     `readers_go_on_while_there_is_no_primary_and_through_a_promotion`,
//!     `nobody_writes_beside_the_primary_whatever_a_session_came_for`,
//!     `equal_timelines_are_a_split_brain_and_a_person_decides`,
//!     `an_old_primary_gets_nobody_while_a_standby_of_a_newer_line_lives`,
//!     `who_was_never_promoted_is_no_primary_of_the_line_that_it_followed`,
//!     `a_branch_from_long_ago_does_not_take_the_role_from_a_primary_that_lives`,
//!     `what_a_person_decided_is_not_undone_by_what_was_decided_against`. Its line of history is on disk before the first client is sent there, but for a
//!     disk that does not answer: `a_new_line_of_history_is_written_down_before_anybody_is_sent_there_and_the_fence_waits_for_no_disk`,
//!     `a_disk_that_does_not_answer_holds_a_failover_up_for_a_tenth_of_a_second`,
//!     `a_daemon_that_is_killed_right_after_the_first_write_to_a_new_primary_knows_the_old_one_for_what_it_is`.
//! 14. Nobody who decides, and nobody else who listens, waits for one that does not take what it is told: a subscriber of the
//!     live events loses its place, and a webhook's events wait in the history, where none is lost and none overtakes another.
//!     Tests: `all_who_read_get_all_in_order_and_those_who_do_not_are_dropped`, `whoever_comes_back_goes_on_without_a_gap_or_a_double`,
//!     `a_receiver_that_hangs_holds_up_no_failover`, `nothing_is_lost_when_the_daemon_is_killed`,
//!     `whatever_a_receiver_does_it_gets_all_of_them_in_order_once_it_takes_them`.
//! 15. A tunnel has one run at a time, and what is told of an older one changes nothing. Of what a tunnel's program has started nothing
//!     is left when its end is told, nor two seconds after the daemon was killed, and nobody else is ever killed for it. A tunnel is
//!     not set up anew because what it leads to is down, and none of its secrets is told.
//!     Tests: `late_news_of_an_older_run_change_nothing`, `it_is_never_started_twice_at_once_whoever_wants_that`,
//!     `whatever_befalls_tunnels_the_rules_hold_and_all_lead_somewhere_in_the_end`,
//!     `what_a_program_leaves_when_it_ends_by_itself_is_killed_before_its_end_is_told`,
//!     `nothing_is_left_after_a_thousand_starts_and_ends_in_any_order`, `nothing_is_left_two_seconds_after_a_daemon_was_killed`,
//!     `what_a_daemon_left_that_was_killed_with_its_guard_is_swept_by_the_next`, `however_a_session_ends_no_process_and_no_descriptor_is_left`,
//!     `a_strangers_port_is_not_taken_for_the_runs`, `a_dead_target_is_one_outage_and_no_rotation`,
//!     `a_target_that_refuses_behind_healthy_tunnels_moves_nobody_and_restarts_nothing`, `no_secret_of_a_tunnel_is_ever_told`,
//!     `a_fence_kills_the_program_with_what_it_had_still_to_pass_on`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod dial;
pub mod failover;
pub mod listener;
pub mod model;
pub mod probe;
pub mod relay;
pub mod routing;
pub mod session;
pub mod settings;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod tunnel;
pub mod watch;
pub mod webhook;
pub mod wire;
