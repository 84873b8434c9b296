//! For `tests/encoder.sh`: reads texts as JSON, one per line, and writes their tokens and vectors: `encode FOLDER`.

use std::io::{BufRead, Write};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name the folder of the model")?;
    let encoder = encoder::Encoder::load(folder.as_ref())?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let vector = encoder.encode(&text)?;
        let took = start.elapsed().as_micros() as u64;
        let answer = serde_json::json!({"tokens": encoder.tokens(&text), "vector": vector, "us": took});
        writeln!(output, "{answer}")?;
    }
    Ok(())
}
