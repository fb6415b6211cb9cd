//! Two services whose names make one backend's name.

use super::*;

impl World {
    /// Who has servers in `my_web`, and what was said of whom.
    fn settled(&mut self) -> (Vec<String>, Vec<String>) {
        let backend = BackendName::new("my_web").unwrap();
        let servers = self.haproxy[&backend].servers.iter();
        let ready = servers.filter(|server| server.admin.is_ready());
        let addresses = ready.map(|server| server.ip.unwrap().to_string()).collect();
        let mut said = Vec::new();
        for fact in self.facts.drain(..) {
            if let Fact::Rejected(service, rejection) = fact {
                said.push(format!("{service}: {}", rejection.reason));
            }
        }
        (addresses, said)
    }
}

fn loses(loser: &str, winner: &str) -> String {
    format!(
        "default/{loser}: the backend my_web is that of the service \"default/{winner}\", which was registered first: rename \
         one of the two, or give one another backend by the tag backend.name"
    )
}

fn wins(winner: &str, loser: &str) -> String {
    format!(
        "default/{winner}: the service \"default/{loser}\" claims the backend my_web, too, and is not served, because this one \
         was registered first: rename one of the two, or give one another backend by the tag backend.name"
    )
}

#[test]
fn of_two_services_with_one_backend_the_first_is_served_and_both_are_told() {
    let mut world = World::started(&["my_web"]);
    world.input(synced(catalog(&[("my-web", 5..6), ("my_web", 3..4)])));
    let (served, mut said) = world.settled();
    said.sort();
    assert_eq!(served, ["10.0.0.3"]);
    assert_eq!(said, [loses("my-web", "my_web"), wins("my_web", "my-web")]);
}

#[test]
fn an_update_does_not_hand_the_backend_to_the_other_but_a_departure_does() {
    let mut world = World::started(&["my_web"]);
    world.input(synced(catalog(&[("my_web", 3..4), ("my-web", 5..6)])));
    world.wait(SECOND);
    // Younger than the other's, with a gap in which nothing of it is registered.
    world.input(Input::Changed(service("my_web"), Vec::new()));
    world.wait(10 * SECOND);
    world.forget();
    world.input(Input::Changed(
        service("my_web"),
        registrations("my_web", 7..8),
    ));
    world.up();
    world.wait(HELD);
    let (served, said) = world.settled();
    assert_eq!(served, ["10.0.0.7"]);
    assert!(!said.contains(&loses("my_web", "my-web")), "{said:?}");

    world.input(Input::Changed(service("my_web"), Vec::new()));
    world.wait(HELD);
    world.up();
    world.wait(HELD);
    assert_eq!(world.settled().0, ["10.0.0.5"]);
    world.input(Input::Changed(
        service("my_web"),
        registrations("my_web", 8..9),
    ));
    let (served, said) = world.settled();
    assert_eq!(served, ["10.0.0.5"]);
    assert!(said.contains(&loses("my_web", "my-web")), "{said:?}");
}

#[test]
fn services_that_name_a_backend_by_a_tag_share_it() {
    let mut world = World::started(&["my_web"]);
    let mut services = catalog(&[("my_web", 3..4), ("other", 5..6)]);
    for registration in services.get_mut(&service("other")).unwrap() {
        registration
            .tags
            .push("haproxy.backend.name=my_web".to_owned());
    }
    world.input(synced(services));
    let (served, said) = world.settled();
    assert_eq!(served, ["10.0.0.3", "10.0.0.5"]);
    assert_eq!(said, Vec::<String>::new());
}
