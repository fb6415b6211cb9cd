//! `shutdown_delay` has to cover the time until HAProxy sends an instance nothing more, and its drain. Where the token may
//! read jobs, one that is too short is named, with what to write.

use crate::support::world::{World, on_every_line};

#[test]
fn a_job_whose_shutdown_delay_is_too_short_is_named_with_the_one_it_needs() {
    on_every_line(|bin| {
        let world = World::start(bin);
        for (job, seconds) in [("dynamic", 3), ("slots", 12)] {
            world.nomad.describe_job(
                job,
                &format!(
                    r#"{{"ID": "{job}", "TaskGroups": [{{"Name": "web", "ShutdownDelay": {seconds}000000000,
                        "Services": [{{"Name": "{job}"}}], "Tasks": [{{"Name": "web", "ShutdownDelay": 0}}]}}]}}"#
                ),
            );
            world.serve(job, 1);
        }
        let sidecar = world.sidecar_with(&[("SIDECAR_DRAIN_TIMEOUT", "10s")]);
        sidecar.logged(&[
            "WARN",
            "job=\"dynamic\"",
            "group \"web\", service \"dynamic\": an instance is stopped 3s after its deregistration, which can cost requests; \
             set shutdown_delay = \"12s\" (2 s until HAProxy sends it nothing, 10s for what is under way)",
        ]);
        sidecar.until_metric("jobs_with_short_shutdown_delay", 1);
        sidecar.until_metric("nomad_requests_total{kind=\"job\",outcome=\"ok\"}", 2);
        assert_eq!(sidecar.count("job=\"slots\""), 0);
    });
}
