//! The real program between a real HAProxy of every line there is (`HAPROXY_BINS`) and a fake Nomad: one behaviour a
//! file, seen from outside, by traffic, by HAProxy's own state and by what is written to its socket.

#[expect(dead_code, reason = "each test program uses a part of the support")]
#[path = "../support"]
mod support {
    pub(crate) mod browser;
    pub(crate) mod fake_nomad;
    pub(crate) mod haproxy;
    pub(crate) mod http;
    pub(crate) mod promtool;
    pub(crate) mod sidecar;
    pub(crate) mod tap;
    pub(crate) mod toy;
    pub(crate) mod world;
}

mod a_job_that_stops_its_instances_too_soon_is_named;
mod a_mass_deregistration_is_not_believed;
mod a_restart_of_the_sidecar_writes_nothing;
mod a_service_is_found_by_its_routes;
mod a_service_without_a_backend_gets_one;
mod a_sidecar_drains_before_it_stops_if_it_is_told_to;
mod a_sidecar_that_died_on_the_way_is_continued;
mod a_start_without_nomad_is_served_from_the_snapshot;
mod clients_with_a_cookie_reach_nobody_new;
mod each_change_is_written_down;
mod everything_is_back_after_a_restart_of_haproxy;
mod explain_names_the_true_reason;
mod file_descriptors_run_out;
mod half_a_request_keeps_nobody_waiting;
mod haproxy_follows_the_catalog;
mod losing_nomad_removes_nothing;
mod memory_is_bounded_whatever_nomad_sends;
mod no_request_before_the_first_passed_check;
mod nomad_is_asked_before_it_is_believed;
mod nothing_is_removed_while_removals_are_frozen;
mod nothing_of_the_catalog_reaches_the_socket_unread;
mod one_address_of_nomad_is_enough;
mod one_backend_cannot_hurt_another;
mod plan_and_observe_write_nothing;
mod ready_is_who_can_answer;
mod slots_come_back_from_the_state_file;
mod tags_become_keywords_of_a_server;
mod the_admin_listener_tells_how_things_stand;
mod the_admin_socket_is_found;
mod the_change_of_one_service_costs_one_backend;
mod the_page_shows_what_is_wrong;
mod the_policy_says_who_may_have_what;
mod the_shipped_configurations_serve;
mod the_token_is_read_again;
mod two_sidecars_of_one_socket;
mod two_users_share_the_socket_and_nothing_else;
mod what_an_operator_did_by_hand_stays;
mod what_belongs_to_others_is_never_changed;
mod what_is_missing_is_waited_for;
mod what_stands_in_place_of_the_socket_is_named;
mod without_a_lock_it_says_so_and_serves;
mod without_a_sidecar_both_sides_are_read;
