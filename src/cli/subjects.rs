//! `matchbook subjects`: what is known of a person, and the erasure of a person.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use matchbook::client::{Client, Server, encoded};
use matchbook::failure::{Failure, print};

#[derive(Subcommand, Debug)]
pub(crate) enum Subjects {
    /// Print everything that is known of a user and was shown to them, as one JSON document
    Report(Report),
    /// Erase a user: destroy their key and name, so that nothing in the log can be attributed to them any more
    Erase(Erase),
}

#[derive(Args, Debug)]
pub(crate) struct Report {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    user: User,
}

#[derive(Args, Debug)]
pub(crate) struct Erase {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    user: User,
    /// Confirm that the user is erased, which cannot be undone
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Debug)]
struct User {
    /// The user's id
    #[arg(value_name = "USER")]
    user: String,
    /// The user's tenant, for credentials of all tenants
    #[arg(long)]
    tenant: Option<String>,
}

impl User {
    /// The path of a route about the user.
    fn path(&self, action: &str) -> String {
        let tenant = self.tenant.as_ref().map(|tenant| format!("?tenant={}", encoded(tenant)));
        format!("/audit/subjects/{}/{action}{}", encoded(&self.user), tenant.unwrap_or_default())
    }
}

impl Subjects {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Report(report) => report.run().await,
            Self::Erase(erase) => erase.run(json).await,
        }
    }
}

impl Report {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(self.server)?;
        let mut answer = client.stream(&self.user.path("report"), "application/json").await?;
        let cut_short = |error: &dyn std::fmt::Display| {
            Failure::Failed(format!("the report ended before it was complete: {error}; ask for it again"))
        };
        let mut output = io::stdout().lock();
        while let Some(chunk) = answer.chunk().await.map_err(|error| cut_short(&error))? {
            output.write_all(&chunk).map_err(|error| cut_short(&error))?;
        }
        writeln!(output).map_err(|error| cut_short(&error))
    }
}

impl Erase {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let Self { server, user, yes } = self;
        if !yes {
            return Err(Failure::Usage(format!(
                "an erasure cannot be undone; to erase the user {}, add --yes; what is known of them: `matchbook subjects report {}`",
                user.user, user.user
            )));
        }
        let client = Client::new(server)?;
        let erased: Value = client.post(&user.path("erase"), &json!({})).await?;
        if json {
            return print(&erased);
        }
        let count = |member: &str| erased["remaining"][member].as_u64().unwrap_or(0);
        print(&format_args!(
            "erased the user {}: {} events remain in the log under the random id {}, which cannot be attributed to the user any more; \
             backups of the vault still do, so remove those when your retention period ends",
            user.user,
            count("user_events") + count("player_events"),
            erased["subject_id"].as_str().unwrap_or_default(),
        ))
    }
}
