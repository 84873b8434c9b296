//! The external service that a message names, whatever happened to it.

use event_schemas::failure::Service;

use super::text::Text;

/// The phrases that name a service, divided by `|`.
const NAMES: [(Service, &str); 3] = [
    (
        Service::SpeechToText,
        "speech to text|speechtotext|speech recognition|speech recogni|speech service|speech googleapis|whisper|\
         deepgram|assemblyai|speechmatics|gladia|transcription service|transcription api|\
         transcription failed|transcription job|audio transcriptions|transcribe us|transcribe eu",
    ),
    (
        Service::Database,
        "database|postgres|psycopg|pgconn|pgx |pq |pqconsume|cassandra|clickhouse|db exception|neo4j|cockroach|asyncpg|pgbouncer|sqlstate|sqlite|pymysql|access denied for user|sqlalche|mysql|mariadb|mongo|\
         pymongo|dynamodb|jdbc|sql server|terminating connection due to|ora 0|deadlock detected|deadlock found|lock wait timeout|\
         statement timeout|too many clients|too many connections|connection slots|\
         could not serialize access|duplicate key value|violates unique constraint|\
         violates foreign key|deadlock victim|deadlocked on|microsoft sql|mssql|tablespace|ora 1|tns |sqlclient|sql client|sqlexception|npgsql|odbc|connection to server at|connection to server on socket|\
         server closed the connection unexpectedly",
    ),
    (
        Service::ObjectStorage,
        "object storage|object store|s3 |minio|bucket|blob storage|blob not found|specified blob|\
         put object|get object|head object|delete object|list objects|upload part|multipart upload|\
         no such key|no such object|storage googleapis|cloud storage|gs ",
    ),
];

pub(super) fn named(text: &Text) -> Option<Service> {
    let found = NAMES.iter().find(|(_, phrases)| phrases.split('|').any(|phrase| text.names(phrase)));
    found.map(|(service, _)| *service)
}
