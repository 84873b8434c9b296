//! The names of streams. They last for ever.
//!
//! The stream of an object with a UUID is `<category>-<uuid>`. A stream whose id a caller chose is
//! `<category>-<tenant>.<id>`, escaped so that the name can be parsed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{ChallengeId, GameMatchId, ImageMatchId, JobId, PoolKey, SubjectId, Tenant, WorkerId};

/// The number of streams over which a job's matches are spread, so that reporters do not wait for each other.
pub const IMAGE_MATCH_SHARDS: u8 = 16;

/// The longest stream name, in bytes: a category and two escaped text ids fit.
pub const STREAM_NAME_MAX: usize = 4096;

/// The name of a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StreamId(Arc<str>);

/// The category of a stream: the part of its name before the first dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    Job,
    ImageMatch,
    Worker,
    Player,
    Pool,
    GameMatch,
    Challenge,
}

/// The categories of this program's streams, including planned ones: names last for ever.
const RESERVED: [&str; 12] = [
    "job",
    "matching",
    "worker",
    "player",
    "pool",
    "match_record",
    "challenge",
    "user",
    "product",
    "cutout",
    "model",
    "projection",
];

/// The text is not a valid stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stream name (1 to {STREAM_NAME_MAX} bytes, no control characters): {0:?}")]
pub struct InvalidStreamName(pub String);

impl Category {
    pub const ALL: [Self; 7] = [
        Self::Job,
        Self::ImageMatch,
        Self::Worker,
        Self::Player,
        Self::Pool,
        Self::GameMatch,
        Self::Challenge,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::ImageMatch => "matching",
            Self::Worker => "worker",
            Self::Player => "player",
            Self::Pool => "pool",
            Self::GameMatch => "match_record",
            Self::Challenge => "challenge",
        }
    }
}

impl StreamId {
    pub fn job(job: JobId) -> Self {
        Self::of_uuid(Category::Job, job.0)
    }

    /// The stream of a job's registrations, match requests and progress.
    pub fn image_matching(job: JobId) -> Self {
        Self::of_uuid(Category::ImageMatch, job.0)
    }

    /// The stream that contains a job's image match with this id: one of [`IMAGE_MATCH_SHARDS`].
    pub fn image_match(job: JobId, id: &ImageMatchId) -> Self {
        Self::image_match_shard(job, image_match_shard(id))
    }

    /// One of the [`IMAGE_MATCH_SHARDS`] streams of a job's image matches.
    pub fn image_match_shard(job: JobId, shard: u8) -> Self {
        Self(format!("{}-{job}.{shard}", Category::ImageMatch.as_str()).into())
    }

    pub fn worker(tenant: &Tenant, worker: &WorkerId) -> Self {
        Self(format!("{}{}", Self::workers_prefix(tenant), escape(worker.as_str())).into())
    }

    /// The common prefix of all worker streams of a tenant, which no other stream has.
    pub fn workers_prefix(tenant: &Tenant) -> String {
        format!("{}-{}.", Category::Worker.as_str(), escape(tenant.as_str()))
    }

    pub fn player(tenant: &Tenant, subject: SubjectId) -> Self {
        Self::of_tenant(Category::Player, tenant, &subject.to_string())
    }

    pub fn pool(tenant: &Tenant, key: &PoolKey) -> Self {
        Self::of_tenant(Category::Pool, tenant, &escape(key.as_str()))
    }

    pub fn game_match(id: GameMatchId) -> Self {
        Self::of_uuid(Category::GameMatch, id.0)
    }

    pub fn challenge(id: ChallengeId) -> Self {
        Self::of_uuid(Category::Challenge, id.0)
    }

    /// `id` must be escaped already.
    fn of_tenant(category: Category, tenant: &Tenant, id: &str) -> Self {
        Self(format!("{}-{}.{id}", category.as_str(), escape(tenant.as_str())).into())
    }

    fn of_uuid(category: Category, id: Uuid) -> Self {
        Self(format!("{}-{id}", category.as_str()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The category; none if the stream belongs to another program.
    pub fn category(&self) -> Option<Category> {
        let (name, _) = self.0.split_once('-')?;
        Category::ALL.into_iter().find(|category| category.as_str() == name)
    }

    /// Whether the name is reserved for this program, whether or not this build knows the category. Other
    /// programs may keep streams with other names in the same log; their events are ignored.
    pub fn is_reserved(&self) -> bool {
        let category = self.0.split_once('-').map_or(&*self.0, |(category, _)| category);
        RESERVED.contains(&category)
    }

    /// The job that a `job` or `matching` stream belongs to.
    pub fn job_id(&self) -> Option<JobId> {
        let (category, rest) = self.0.split_once('-')?;
        if category != Category::Job.as_str() && category != Category::ImageMatch.as_str() {
            return None;
        }
        rest.split('.').next()?.parse().ok()
    }

    /// The id of the match, if this is the stream of a match.
    pub fn game_match_id(&self) -> Option<GameMatchId> {
        self.id_in(Category::GameMatch)
    }

    /// The id of the challenge, if this is the stream of a challenge.
    pub fn challenge_id(&self) -> Option<ChallengeId> {
        self.id_in(Category::Challenge)
    }

    fn id_in<T: FromStr>(&self, category: Category) -> Option<T> {
        let (name, id) = self.0.split_once('-')?;
        if name == category.as_str() { id.parse().ok() } else { None }
    }

    /// The shard, if this is a stream of a job's image matches.
    pub fn shard(&self) -> Option<u8> {
        if self.category()? != Category::ImageMatch {
            return None;
        }
        self.0.split_once('.')?.1.parse().ok()
    }
}

/// FNV-1a: fixed for ever, because it decides which stream contains a match.
fn image_match_shard(id: &ImageMatchId) -> u8 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in id.as_str().bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    // The low bits of FNV alone are weak, so the high half is mixed in.
    ((hash ^ (hash >> 16)) % u32::from(IMAGE_MATCH_SHARDS)) as u8
}

/// Keeps letters, digits, `_` and `-`; replaces every other byte by `~` and two hexadecimal digits.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("~{byte:02x}"));
        }
    }
    escaped
}

/// The inverse of [`escape`]; none if the text is not an escaped one.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'~' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| escape(text) == escaped)
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamName;

    fn from_str(text: &str) -> Result<Self, InvalidStreamName> {
        let valid = !text.is_empty() && text.len() <= STREAM_NAME_MAX && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.into())) } else { Err(InvalidStreamName(text.to_owned())) }
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn streams_of_a_job_contain_its_id() {
        let job = JobId(Uuid::from_u128(1));
        let id: ImageMatchId = "hedge-1:f000".parse().unwrap();
        for stream in [StreamId::job(job), StreamId::image_matching(job), StreamId::image_match(job, &id)] {
            assert_eq!(stream.job_id(), Some(job), "{stream}");
        }
        assert_eq!(StreamId::image_matching(job).shard(), None);
        assert!(StreamId::image_match(job, &id).shard().is_some());
    }

    #[test]
    fn only_own_category_names_are_reserved() {
        for category in Category::ALL {
            assert!(RESERVED.contains(&category.as_str()), "{category:?}");
        }
        let reserved = |name: &str| name.parse::<StreamId>().unwrap().is_reserved();
        assert!(reserved("challenge-1") && reserved("job") && reserved("job-"));
        assert!(!reserved("jobs-1") && !reserved("Job-1") && !reserved("$$job-1") && !reserved("a-job-1"));
    }

    #[test]
    fn worker_prefix_matches_one_tenant_only() {
        let (a, ab): (Tenant, Tenant) = ("a".parse().unwrap(), "a.b".parse().unwrap());
        let worker: WorkerId = "w".parse().unwrap();
        assert!(!StreamId::worker(&ab, &worker).as_str().starts_with(&StreamId::workers_prefix(&a)));
    }

    #[test]
    fn category_is_parsed_from_the_stream_name() {
        let tenant: Tenant = "a.b".parse().unwrap();
        let id = Uuid::from_u128(1);
        for (stream, category, name) in [
            (
                StreamId::player(&tenant, SubjectId(id)),
                Category::Player,
                "player-a~2eb.00000000-0000-0000-0000-000000000001",
            ),
            (
                StreamId::pool(&tenant, &"blitz 3+0".parse().unwrap()),
                Category::Pool,
                "pool-a~2eb.blitz~203~2b0",
            ),
            (
                StreamId::game_match(GameMatchId(id)),
                Category::GameMatch,
                "match_record-00000000-0000-0000-0000-000000000001",
            ),
            (
                StreamId::challenge(ChallengeId(id)),
                Category::Challenge,
                "challenge-00000000-0000-0000-0000-000000000001",
            ),
        ] {
            assert_eq!((stream.as_str(), stream.category()), (name, Some(category)));
        }
    }

    #[test]
    fn shard_of_a_match_never_changes() {
        let shards: Vec<u8> = ["a", "hedge-1:f000", "hedge-1:f004", "ä"]
            .map(|id| image_match_shard(&id.parse().unwrap()))
            .into();
        assert_eq!(shards, GOLDEN_SHARDS);
    }

    const GOLDEN_SHARDS: [u8; 4] = [0, 0, 12, 15];

    #[test]
    fn matches_spread_evenly_over_the_shards() {
        let mut counts = [0_u32; IMAGE_MATCH_SHARDS as usize];
        for n in 0..16_000 {
            counts[usize::from(image_match_shard(&format!("p{}:f{}", n % 40, n / 40).parse().unwrap()))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn unescape_inverts_escape(text in "\\PC{1,40}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains('.'));
            prop_assert_eq!(unescape(&escaped), Some(text));
        }
    }
}
