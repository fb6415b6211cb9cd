//! Group services are registered before their tasks listen. HAProxy's own check decides when an instance gets its first
//! request: under load nobody notices one that is not ready.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn an_instance_that_is_not_ready_gets_no_request_until_its_check_has_passed() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let good = BOTH.map(|service| world.serve(service, 1));
        let sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&good) {
            world.until_served_by(service, &[&toys[0]]);
        }
        for service in BOTH {
            let (refuses, fails) = (Toy::start("refuses"), Toy::start("fails"));
            refuses.refuse();
            fails.fail();
            let answers = under_load(&world, service, || {
                world.register(service, &refuses);
                world.register(service, &fails);
                soon("HAProxy has checked it", || {
                    (fails.checks() >= 5).then_some(())
                });
                let addresses = [&refuses, &fails].map(|toy| toy.address().to_string());
                let down = world.servers(service).into_values();
                let down = down.filter(|server| {
                    addresses.contains(&server.address)
                        && server.operational == 0
                        && server.admin & 1 == 0
                });
                assert_eq!(down.count(), 2, "ready, and down");
                assert_eq!((refuses.requests(), fails.requests()), (0, 0));
                refuses.serve();
                fails.serve();
                soon("both get requests", || {
                    (refuses.requests() > 5 && fails.requests() > 5).then_some(())
                });
            });
            eprintln!("{}: {service}: {answers:?}", bin.version);
            let failed: Vec<_> = answers.keys().filter(|answer| answer.is_err()).collect();
            assert!(failed.is_empty(), "{service}: {answers:?}");
        }
        drop(sidecar);
    });
}

/// Runs `work` while two clients ask one after the other, and counts their answers.
fn under_load(
    world: &World,
    service: &str,
    work: impl FnOnce(),
) -> BTreeMap<Result<String, String>, usize> {
    let answers = Mutex::new(BTreeMap::new());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let answer = world.request(service);
                    *answers
                        .lock()
                        .expect("no client panics")
                        .entry(answer)
                        .or_default() += 1;
                }
            });
        }
        // The clients must end even when the work fails.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::SeqCst);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    answers.into_inner().expect("no client panicked")
}
