//! What every log must do, as one suite that each implementation runs.
