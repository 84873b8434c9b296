use super::*;
use crate::caller::{Credential, Role};
use crate::shutdown::{self, Shutdown};

const PATH: &str = "/jobs/1/stream";

fn caller(user: &str, expires_in: Option<u64>) -> Caller {
    Caller {
        tenant: "acme".parse().unwrap(),
        user: Some(user.parse().unwrap()),
        roles: Role::User.into(),
        ratings: Default::default(),
        via: Credential::Token,
        expires_at: expires_in.map(at),
    }
}

fn at(second: u64) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_secs(second))
}

fn issue(tickets: &Tickets, caller: &Caller) -> TicketHash {
    TicketHash::of(&tickets.issue(caller.clone(), None, at(0)).unwrap().ticket)
}

/// Opens a stream with the ticket, if it can.
fn open(tickets: &Tickets, ticket: TicketHash, path: &str, second: u64) -> Option<Shutdown> {
    let (replace, replaced) = shutdown::channel();
    tickets.open(ticket, path, replace, at(second)).then_some(replaced)
}

#[test]
fn ticket_opens_one_path_again_until_its_token_ends() {
    let (tickets, ann) = (Tickets::default(), caller("ann", Some(600)));
    let ticket = issue(&tickets, &ann);
    assert_eq!(tickets.caller(ticket, PATH, at(59)), Some(ann));
    drop(open(&tickets, ticket, PATH, 59).unwrap());
    assert!(open(&tickets, ticket, "/jobs/2/stream", 60).is_none());
    assert!(open(&tickets, ticket, PATH, 599).is_some());
    assert!(open(&tickets, ticket, PATH, 600).is_none());
    assert_eq!(tickets.caller(ticket, PATH, at(600)), None);
}

#[test]
fn unused_ticket_ends_after_a_minute_or_with_its_token() {
    let tickets = Tickets::default();
    for (expires_in, last) in [(None, 60), (Some(600), 60), (Some(5), 5)] {
        let issued = tickets.issue(caller("ann", expires_in), None, at(0)).unwrap();
        assert_eq!(issued.expires_at, at(last));
        let ticket = TicketHash::of(&issued.ticket);
        assert!(tickets.caller(ticket, PATH, at(last - 1)).is_some());
        assert!(open(&tickets, ticket, PATH, last).is_none());
    }
}

#[test]
fn ticket_for_a_path_opens_no_other() {
    let tickets = Tickets::default();
    let issued = tickets.issue(caller("ann", None), Some(PATH.to_owned()), at(0)).unwrap();
    let ticket = TicketHash::of(&issued.ticket);
    assert_eq!(tickets.caller(ticket, "/jobs/2/stream", at(0)), None);
    assert!(open(&tickets, ticket, PATH, 0).is_some());
}

#[test]
fn later_stream_of_a_ticket_ends_the_earlier() {
    let tickets = Tickets::default();
    let ticket = issue(&tickets, &caller("ann", None));
    let first = open(&tickets, ticket, PATH, 0).unwrap();
    assert!(!first.is_requested());
    let second = open(&tickets, ticket, PATH, 1).unwrap();
    assert!(first.is_requested() && !second.is_requested());
}

#[test]
fn caller_has_at_most_16_unused_tickets() {
    let (tickets, ann) = (Tickets::default(), caller("ann", None));
    let all: Vec<_> = (0..UNUSED_MAX).map(|_| issue(&tickets, &ann)).collect();
    assert!(tickets.issue(ann.clone(), None, at(0)).is_err());
    assert!(tickets.issue(caller("bob", None), None, at(0)).is_ok());
    let _stream = open(&tickets, all[0], PATH, 0).unwrap();
    issue(&tickets, &ann);
    assert!(tickets.issue(ann.clone(), None, at(59)).is_err());
    assert!(tickets.issue(ann, None, at(60)).is_ok());
}

#[test]
fn closed_streams_leave_a_bounded_number_of_tickets() {
    let (tickets, ann) = (Tickets::default(), caller("ann", None));
    let kept = issue(&tickets, &ann);
    let stream = open(&tickets, kept, PATH, 0);
    for _ in 0..10 * IDLE_MAX {
        let ticket = issue(&tickets, &ann);
        drop(open(&tickets, ticket, PATH, 0).unwrap());
    }
    assert_eq!(tickets.issued().len(), IDLE_MAX + 1);
    drop(stream);
    assert!(open(&tickets, kept, PATH, 1).is_some());
}
