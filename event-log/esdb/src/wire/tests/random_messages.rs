//! Property tests with random messages: each is answered or refused, and reads match a plain list.

use std::sync::{Arc, LazyLock};

use event_schemas::ids::{Position, Revision};
use event_schemas::time::Timestamp;
use futures_util::StreamExt;
use proptest::prelude::*;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::START;
use crate::wire::access::{Access, Right, User};
use crate::wire::append::batch::IncompleteAppends;
use crate::wire::append::single;
use crate::wire::delete::Deletion;
use crate::wire::event_conversion::UuidFormat;
use crate::wire::filter::Filter;
use crate::wire::guard::{MessageBudget, TotalBudget};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, Position as At, StreamOption, StreamOptions,
    SubscriptionOptions, UuidOption, all_options, filter_options, stream_options, uuid_option,
};
use crate::wire::proto::event_store::client::streams::read_resp::Content;
use crate::wire::proto::event_store::client::streams::{
    AppendReq, BatchAppendReq, DeleteReq, ReadReq, TombstoneReq, append_req, batch_append_req, read_req,
};
use crate::wire::proto::event_store::client::{Empty, StreamIdentifier, Uuid};
use crate::wire::read::plan::{Direction, ReadPlan, StartFrom};
use crate::wire::read::read_format::ReadFormat;
use crate::wire::read::{AllEvents, Reader, StreamEvents};
use crate::wire::server_state::{self, EndPoint};
use crate::wire::stream_metadata::StreamStatusCache;
use event_log::clock::Clock;
use event_log::conformance::event;
use event_log_embedded::ClientExpected;
use event_log_embedded::EmbeddedLog;

/// A log with events of streams `a` and `ab`, and a runtime to read them on.
struct ReadFixture {
    runtime: tokio::runtime::Runtime,
    node: Arc<Node>,
    _faults: server_state::FaultSwitch,
    _folder: tempfile::TempDir,
}

const EVENTS: u64 = 23;

const FORMAT: ReadFormat = ReadFormat { ids: UuidFormat::Text, resolves_links: true };

fn stream_at(position: u64) -> &'static str {
    if position.is_multiple_of(3) { "ab" } else { "a" }
}

static FIXTURE: LazyLock<ReadFixture> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = event_log_embedded::Settings {
        reserve_bytes: 0,
        ..event_log_embedded::Settings::new(folder.path().join("events"))
    };
    let clock = Clock::manual(START);
    let (log, _) = EmbeddedLog::open(&settings, clock.clone()).unwrap();
    runtime.block_on(async {
        for position in 1..=EVENTS {
            let stream = stream_at(position).parse().unwrap();
            let new = vec![event(u128::from(position))];
            log.submit(&stream, ClientExpected::Any, new).await.unwrap().outcome().await.unwrap();
        }
    });
    let (faults, server_state) = server_state::channel();
    let advertised = EndPoint { host: "localhost".to_owned(), port: 1 };
    let (access, statuses) = (Access::default(), StreamStatusCache::new());
    let node = Node { log, clock, access, server_state, statuses, advertised };
    ReadFixture { runtime, node: Arc::new(node), _faults: faults, _folder: folder }
});

/// The positions of the events that a read returns.
fn positions(reader: impl Reader) -> Vec<u64> {
    FIXTURE.runtime.block_on(async {
        let mut answers = reader.answers();
        let mut positions = Vec::new();
        while let Some(answer) = answers.next().await {
            if let Some(Content::Event(event)) = answer.unwrap().content {
                positions.push(event.event.unwrap().commit_position);
            }
        }
        positions
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..30_u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn start_from<P: Clone + std::fmt::Debug>(of: fn(u64) -> P) -> impl Strategy<Value = StartFrom<P>> {
    prop_oneof![
        Just(StartFrom::Start),
        Just(StartFrom::End),
        number().prop_map(move |number| StartFrom::At(of(number)))
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forwards), Just(Direction::Backwards)]
}

fn in_direction(direction: Direction, positions: impl DoubleEndedIterator<Item = u64>) -> Vec<u64> {
    match direction {
        Direction::Forwards => positions.collect(),
        Direction::Backwards => positions.rev().collect(),
    }
}

fn expressions() -> impl Strategy<Value = filter_options::Expression> {
    let regex = prop_oneof![
        Just(String::new()),
        Just("^(?!a$)".to_owned()),
        Just("(a+)+(?=b)$".to_owned()),
        "[ab^$()?+*|\\[\\]{}0-9]{0,12}",
    ];
    (regex, proptest::collection::vec("[ab]{0,2}", 0..3))
        .prop_map(|(regex, prefix)| filter_options::Expression { regex, prefix })
}

fn filters() -> impl Strategy<Value = FilterOptions> {
    let filter = prop_oneof![
        expressions().prop_map(filter_options::Filter::StreamIdentifier),
        expressions().prop_map(filter_options::Filter::EventType),
    ];
    let window = prop_oneof![
        any::<u32>().prop_map(filter_options::Window::Max),
        Just(filter_options::Window::Count(Empty {})),
    ];
    (proptest::option::of(filter), proptest::option::of(window), any::<u32>()).prop_map(
        |(filter, window, checkpoint_interval_multiplier)| FilterOptions {
            filter,
            window,
            checkpoint_interval_multiplier,
        },
    )
}

fn names() -> impl Strategy<Value = Option<StreamIdentifier>> {
    let name = prop_oneof![
        Just(b"a".to_vec()),
        Just(b"$$a".to_vec()),
        Just(b"job-1".to_vec()),
        Just(vec![b'x'; 5000]),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    proptest::option::of(name.prop_map(|name| StreamIdentifier { stream_name: name.into() }))
}

fn reads() -> impl Strategy<Value = ReadReq> {
    use all_options::AllOption;
    use stream_options::RevisionOption;
    let revision = proptest::option::of(prop_oneof![
        number().prop_map(RevisionOption::Revision),
        Just(RevisionOption::Start(Empty {})),
        Just(RevisionOption::End(Empty {})),
    ]);
    let all = proptest::option::of(prop_oneof![
        (number(), number()).prop_map(|(commit_position, prepare_position)| AllOption::Position(At {
            commit_position,
            prepare_position
        })),
        Just(AllOption::End(Empty {})),
    ]);
    let stream_option = prop_oneof![
        (names(), revision).prop_map(|(stream_identifier, revision_option)| {
            StreamOption::Stream(StreamOptions { stream_identifier, revision_option })
        }),
        all.prop_map(|all_option| StreamOption::All(AllOptions { all_option })),
    ];
    let count = prop_oneof![
        number().prop_map(CountOption::Count),
        Just(CountOption::Subscription(SubscriptionOptions {})),
    ];
    let filter =
        prop_oneof![Just(FilterOption::NoFilter(Empty {})), filters().prop_map(FilterOption::Filter),];
    let stream_option = proptest::option::of(stream_option);
    let (count, filter) = (proptest::option::of(count), proptest::option::of(filter));
    (stream_option, count, filter, -1..3_i32, any::<bool>()).prop_map(
        |(stream_option, count_option, filter_option, read_direction, resolve_links)| ReadReq {
            options: Some(read_req::Options {
                read_direction,
                resolve_links,
                uuid_option: Some(UuidOption { content: Some(uuid_option::Content::Structured(Empty {})) }),
                control_option: None,
                stream_option,
                count_option,
                filter_option,
            }),
        },
    )
}

/// Parses the message as the server does for each kind of call, without accessing the log.
fn parse(bytes: &[u8]) {
    if let Ok(request) = ReadReq::decode(bytes) {
        let _ = ReadPlan::new(request);
    }
    if let Ok(request) = DeleteReq::decode(bytes) {
        let _ = Deletion::try_from(request);
    }
    if let Ok(request) = TombstoneReq::decode(bytes) {
        let _ = Deletion::try_from(request);
    }
    if let Ok(request) = AppendReq::decode(bytes) {
        let mut append = None;
        let _ = single::add_message(&mut append, request.clone());
        let _ = single::add_message(&mut append, request);
    }
    if let Ok(request) = BatchAppendReq::decode(bytes) {
        let mut open = IncompleteAppends::new(MessageBudget::new(&TotalBudget::default()));
        let _ = open.add_message(request.clone(), Timestamp::EPOCH);
        let _ = open.add_message(request, Timestamp::EPOCH);
    }
}

fn append_message() -> Vec<u8> {
    let metadata = [("type".to_owned(), "T".to_owned()), ("content-type".to_owned(), "x".to_owned())];
    let content = append_req::Content::ProposedMessage(append_req::ProposedMessage {
        id: Some(UuidFormat::Structured.write(uuid::Uuid::from_u128(7))),
        metadata: metadata.into(),
        custom_metadata: b"1"[..].into(),
        data: b"2"[..].into(),
    });
    AppendReq { content: Some(content) }.encode_to_vec()
}

fn batch_message() -> Vec<u8> {
    use batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
    let options = batch_append_req::Options {
        stream_identifier: Some(StreamIdentifier { stream_name: b"a"[..].into() }),
        expected_stream_position: Some(ExpectedStreamPosition::Any(())),
        deadline_option: Some(DeadlineOption::Deadline(prost_types::Duration { seconds: 9, nanos: 1 })),
    };
    let message = batch_append_req::ProposedMessage {
        id: Some(Uuid { value: None }),
        metadata: std::collections::HashMap::new(),
        custom_metadata: bytes::Bytes::new(),
        data: bytes::Bytes::new(),
    };
    BatchAppendReq {
        correlation_id: Some(UuidFormat::Text.write(uuid::Uuid::from_u128(7))),
        options: Some(options),
        proposed_messages: vec![message],
        is_final: true,
    }
    .encode_to_vec()
}

proptest! {
    #[test]
    fn a_stream_read_matches_a_plain_list(
        from in start_from(Revision), direction in direction(), count in number(), reports_stream_ends: bool,
    ) {
        let list: Vec<u64> = (1..=EVENTS).filter(|position| stream_at(*position) == "a").collect();
        let last = list.len() as u64 - 1;
        let range = match (direction, from) {
            (Direction::Forwards, StartFrom::Start) => 0..=last,
            (Direction::Forwards, StartFrom::At(revision)) => revision.0..=last,
            (Direction::Forwards, StartFrom::End) => u64::MAX..=last,
            (Direction::Backwards, StartFrom::Start) => 0..=0,
            (Direction::Backwards, StartFrom::At(revision)) => 0..=revision.0.min(last),
            (Direction::Backwards, StartFrom::End) => 0..=last,
        };
        let count_max = usize::try_from(count).unwrap();
        let expected: Vec<u64> =
            in_direction(direction, range).iter().map(|index| list[*index as usize]).take(count_max).collect();
        let stream = "a".parse().unwrap();
        let node = Arc::clone(&FIXTURE.node);
        let opened = StreamEvents::open(node, stream, from, direction, count, FORMAT, reports_stream_ends);
        let reader = FIXTURE.runtime.block_on(opened).unwrap();
        prop_assert_eq!(positions(reader), expected);
    }

    #[test]
    fn a_log_read_matches_a_plain_list(
        from in start_from(Position), direction in direction(), count in number(), options in filters(),
    ) {
        let Ok(filter) = Filter::new(&options) else { return Ok(()) };
        let range = match (direction, from) {
            (Direction::Forwards, StartFrom::Start) => 1..EVENTS + 1,
            (Direction::Forwards, StartFrom::At(position)) => position.0.max(1)..EVENTS + 1,
            (Direction::Backwards, StartFrom::At(position)) => 1..position.0.min(EVENTS + 1),
            (Direction::Backwards, StartFrom::End) => 1..EVENTS + 1,
            (Direction::Forwards, StartFrom::End) | (Direction::Backwards, StartFrom::Start) => 0..0,
        };
        let all = FIXTURE.runtime.block_on(FIXTURE.node.log.read_all_backwards(Position(u64::MAX), 100)).unwrap();
        let passes = |position: &u64| {
            let event = all.iter().find(|event| event.position.0 == *position).unwrap();
            filter.matches(event).unwrap()
        };
        let count_max = usize::try_from(count).unwrap();
        let expected: Vec<u64> =
            in_direction(direction, range).into_iter().filter(passes).take(count_max).collect();
        let node = Arc::clone(&FIXTURE.node);
        let reader = AllEvents::new(node, FORMAT, from, direction, count, filter.clone());
        prop_assert_eq!(positions(reader), expected);
    }

    #[test]
    fn any_read_is_parsed_or_refused(request in reads()) {
        parse(&request.encode_to_vec());
    }

    #[test]
    fn random_and_mutated_messages_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..60), request in reads(), at: usize, to: u8,
    ) {
        parse(&bytes);
        for mut message in [request.encode_to_vec(), append_message(), batch_message()] {
            parse(&message);
            if let Some(index) = at.checked_rem(message.len()) {
                message[index] = to;
            }
            parse(&message);
        }
    }

    #[test]
    fn only_the_right_credentials_are_accepted(header in proptest::collection::vec(any::<u8>(), 0..40)) {
        let user = User { name: "n".to_owned(), password: "p:w".to_owned(), right: Right::Clients };
        let access = Access { users: vec![user], anonymous: None };
        let mut request = MetadataMap::new();
        if let Ok(value) = MetadataValue::try_from(&header[..]) {
            request.insert("authorization", value);
        }
        prop_assert!(access.right(&request).is_err());
        request.insert("authorization", MetadataValue::from_static("Basic bjpwOnc="));
        prop_assert_eq!(access.right(&request).unwrap(), Right::Clients);
    }
}

#[test]
fn an_expression_over_the_backtracking_limit_is_refused() {
    let expression =
        filter_options::Expression { regex: r"^(?=(a+)+\1$)(a|aa)+(?!b)c$".to_owned(), prefix: Vec::new() };
    let filter = Some(filter_options::Filter::StreamIdentifier(expression));
    let filter =
        Filter::new(&FilterOptions { filter, window: None, checkpoint_interval_multiplier: 1 }).unwrap();
    let events =
        FIXTURE.runtime.block_on(FIXTURE.node.log.read_all_backwards(Position(u64::MAX), 1)).unwrap();
    let mut named = events[0].clone();
    named.stream = "a".repeat(4000).parse().unwrap();
    assert!(filter.matches(&named).is_err());
}
