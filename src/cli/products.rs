//! `matchbook products` and `matchbook cutouts`: imports into the catalogue of a running server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::counted;
use super::events::progress::ProgressReporter;
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};

#[derive(Subcommand, Debug)]
pub(crate) enum Products {
    /// Create or replace the products of a file; unchanged ones record nothing, so an import can be repeated
    Import(Import),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Cutouts {
    /// Create or change the cutouts of a file; unchanged ones record nothing, so an import can be repeated
    Import(Import),
}

/// What an import consists of.
#[derive(Clone, Copy, Debug)]
struct Imported {
    route: &'static str,
    one: &'static str,
    many: &'static str,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    #[command(flatten)]
    server: Server,
    /// One JSON object per line with the members of the API; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The bounds of a batch, which the server answers within seconds.
const BATCH_LINES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 2 << 20;

/// The longest line, which is longer than any product.
const LINE_BYTES_MAX: u64 = 1 << 20;

impl Products {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Import(import) => {
                let route = "/api/v1/products/batch";
                import.run(json, Imported { route, one: "product", many: "products" }).await
            }
        }
    }
}

impl Cutouts {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Import(import) => {
                let route = "/api/v1/cutouts";
                import.run(json, Imported { route, one: "cutout", many: "cutouts" }).await
            }
        }
    }
}

impl Import {
    async fn run(self, json: bool, what: Imported) -> Result<(), Failure> {
        let client = Client::new(self.server)?;
        let mut lines = Lines::open(&self.file)?;
        let mut reporter = ProgressReporter::new("imported");
        let (mut imported, mut rejected, mut position) = (0, 0, Value::Null);
        while let Some(batch) = lines.next_batch()? {
            let answer = client.post_lines(what.route, &batch.text).await?;
            let outcome = Outcome::of(&batch, &answer);
            for error in &outcome.errors {
                eprintln!("{}: {error}", self.file.display());
            }
            imported += outcome.accepted;
            rejected += outcome.rejected;
            if let Some(reached) = answer.get("position") {
                position.clone_from(reached);
            }
            reporter.share(what.many, imported, lines.bytes, lines.bytes_total);
        }
        let seconds = reporter.elapsed().as_secs_f64();
        if json {
            let report = json!({
                "imported": imported, "rejected": rejected, "position": position, "seconds": seconds,
            });
            print(&report)?;
        } else {
            print(&format_args!("imported {} in {seconds:.1} s", counted(imported, what.one, what.many)))?;
        }
        if rejected == 0 {
            return Ok(());
        }
        let rejected = counted(rejected, "line was", "lines were");
        Err(Failure::Failed(format!("{rejected} rejected; correct the file and import it again")))
    }
}

/// Some lines of the file.
struct Batch {
    text: String,
    /// The number of its first line in the file, from 1.
    first_line: usize,
    /// The number of its lines that are not empty.
    products: u64,
}

/// What the server did with a batch.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    accepted: u64,
    rejected: u64,
    /// With the numbers of the lines in the file.
    errors: Vec<String>,
}

impl Outcome {
    fn of(batch: &Batch, answer: &Value) -> Self {
        let text = |object: &Value, member: &str| {
            object.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let members = |object: &Value, member: &str| -> Vec<Value> {
            object.get(member).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let Some(accepted) = answer.get("accepted").and_then(Value::as_u64) else {
            // A problem, because no line is right.
            let (first, detail) = (batch.first_line, text(answer, "detail"));
            let errors = vec![match batch.products {
                1 => format!("line {first}: {detail}"),
                products => format!("none of the {products} lines from line {first} on is right: {detail}"),
            }];
            return Self { accepted: 0, rejected: batch.products, errors };
        };
        let mut errors = Vec::new();
        for result in members(answer, "results") {
            let line = result.get("line").and_then(Value::as_u64).unwrap_or(1) as usize;
            for error in members(&result, "errors") {
                let (field, reason) = (text(&error, "field"), text(&error, "reason"));
                errors.push(format!("line {}: {field} {reason}", batch.first_line + line - 1));
            }
        }
        let rejected = answer.get("rejected").and_then(Value::as_u64).unwrap_or(0);
        Self { accepted, rejected, errors }
    }
}

/// Reads the file in batches.
struct Lines {
    file: PathBuf,
    reader: Box<dyn BufRead>,
    next_line: usize,
    bytes: u64,
    /// 0 if it is unknown.
    bytes_total: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (reader, bytes_total): (Box<dyn BufRead>, u64) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), 0)
        } else {
            let file = File::open(path).map_err(|error| unreadable(path, &error))?;
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            (Box::new(BufReader::new(file)), length)
        };
        Ok(Self { file: path.to_owned(), reader, next_line: 1, bytes: 0, bytes_total })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, Failure> {
        let mut batch = Batch { text: String::new(), first_line: self.next_line, products: 0 };
        while self.next_line - batch.first_line < BATCH_LINES_MAX && batch.text.len() < BATCH_BYTES_MAX {
            let start = batch.text.len();
            let mut line = (&mut self.reader).take(LINE_BYTES_MAX);
            let length = line.read_line(&mut batch.text).map_err(|error| unreadable(&self.file, &error))?;
            if length == 0 {
                break;
            }
            if length as u64 == LINE_BYTES_MAX && !batch.text.ends_with('\n') {
                let (file, line) = (self.file.display(), self.next_line);
                return Err(Failure::Failed(format!(
                    "{file}: line {line} has more than {LINE_BYTES_MAX} bytes; write one product per line"
                )));
            }
            batch.products += u64::from(!batch.text[start..].trim().is_empty());
            self.next_line += 1;
            self.bytes += length as u64;
        }
        Ok((!batch.text.is_empty()).then_some(batch))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Disk(format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: String) -> Lines {
        let reader = Box::new(io::Cursor::new(text));
        Lines { file: "catalogue".into(), reader, next_line: 1, bytes: 0, bytes_total: 0 }
    }

    #[test]
    fn file_is_read_in_batches_with_the_numbers_of_their_lines() {
        let mut lines = lines("{}\n\n".repeat(600) + "{}");
        let batches: Vec<_> = std::iter::from_fn(|| lines.next_batch().unwrap())
            .map(|batch| (batch.first_line, batch.products, batch.text.len()))
            .collect();
        assert_eq!(batches, [(1, 500, 2000), (1001, 101, 402)]);
        assert_eq!(lines.bytes, 2402);
    }

    #[test]
    fn endless_line_is_refused() {
        let failure = lines("x".repeat(2 << 20)).next_batch().err().unwrap();
        assert!(failure.to_string().contains("line 1 has more than"), "{failure}");
    }

    #[test]
    fn errors_have_the_number_of_the_line_in_the_file() {
        let batch = Batch { text: String::new(), first_line: 1001, products: 3 };
        let answer = json!({"accepted": 2, "rejected": 1, "results": [
            {"line": 1, "status": "accepted"},
            {"line": 3, "status": "rejected", "errors": [{"field": "price", "reason": "must be at least 0"}]},
        ]});
        let errors = vec!["line 1003: price must be at least 0".to_owned()];
        assert_eq!(Outcome::of(&batch, &answer), Outcome { accepted: 2, rejected: 1, errors });
        let outcome = Outcome::of(&batch, &json!({"detail": "none is right"}));
        assert_eq!((outcome.accepted, outcome.rejected, outcome.errors.len()), (0, 3, 1));
    }
}
