//! The model itself, run by `rten`, one text per thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value};

use super::EncodeError;
use super::folder::Pooling;

/// What a model is given about each token.
#[derive(Clone, Copy, Debug)]
enum Input {
    Ids,
    /// 1 for each token, because a text is run alone, without padding.
    Mask,
    /// 0 for each token: there is one sentence.
    Types,
    Positions,
}

/// Threads that run one text each.
#[derive(Debug)]
struct Lanes {
    free: Mutex<Vec<Arc<ThreadPool>>>,
    freed: Condvar,
}

pub(crate) struct Graph {
    model: Model,
    inputs: Vec<(NodeId, Input)>,
    output: NodeId,
    pooling: Pooling,
    lanes: Lanes,
}

impl Lanes {
    fn new() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let free = (0..count).map(|_| Arc::new(ThreadPool::with_num_threads(1))).collect();
        Self { free: Mutex::new(free), freed: Condvar::new() }
    }

    /// Runs a function with a thread that is free, and waits for one.
    fn with<T>(&self, run: impl FnOnce(Arc<ThreadPool>) -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.freed.wait_while(free, |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let lane = free.pop().expect("a lane was waited for");
        drop(free);
        let result = run(Arc::clone(&lane));
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        self.freed.notify_one();
        result
    }
}

impl Graph {
    /// Reads a model. The reason why it cannot be used is the error.
    pub(crate) fn load(onnx: Vec<u8>, pooling: Pooling) -> Result<Self, String> {
        let model = caught(|| ModelOptions::with_all_ops().load(onnx)).map_err(|error| error.to_string())?;
        let model = model.map_err(|error| error.to_string())?;
        let named = |id: &NodeId| {
            let name = model.node_info(*id).and_then(|node| node.name().map(str::to_owned));
            (*id, name.unwrap_or_default())
        };
        let mut inputs = Vec::new();
        for (id, name) in model.input_ids().iter().map(named) {
            let input = match name.as_str() {
                "input_ids" => Input::Ids,
                "attention_mask" => Input::Mask,
                "token_type_ids" => Input::Types,
                "position_ids" => Input::Positions,
                _ => return Err(format!("it has the unknown input `{name}`")),
            };
            inputs.push((id, input));
        }
        if !inputs.iter().any(|(_, input)| matches!(input, Input::Ids)) {
            return Err("it has no input `input_ids`".to_owned());
        }
        let outputs: Vec<(NodeId, String)> = model.output_ids().iter().map(named).collect();
        let per_token = ["last_hidden_state", "token_embeddings"];
        let known = outputs.iter().find(|(_, name)| per_token.contains(&name.as_str()));
        let (output, _) = *known.or(outputs.first()).ok_or("it has no output")?;
        Ok(Self { inputs, output, pooling, lanes: Lanes::new(), model })
    }

    /// The vector of a text, of length 1.
    pub(crate) fn run(&self, tokens: &[u32]) -> Result<Vec<f32>, EncodeError> {
        let (count, dimension, values) =
            self.lanes.with(|lane| caught(AssertUnwindSafe(|| self.token_vectors(tokens, lane))))??;
        if count != tokens.len() || dimension == 0 {
            let reason = format!("{} tokens have {count} vectors of {dimension} numbers", tokens.len());
            return Err(EncodeError::Failed(reason));
        }
        let mut sum = vec![0.0_f64; dimension];
        let counted = if self.pooling == Pooling::First { &values[..dimension] } else { &values[..] };
        for vector in counted.chunks_exact(dimension) {
            for (sum, value) in sum.iter_mut().zip(vector) {
                *sum += f64::from(*value);
            }
        }
        // The mean has the direction of the sum.
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !length.is_finite() || length == 0.0 {
            return Err(EncodeError::Failed("a vector has no direction".to_owned()));
        }
        Ok(sum.into_iter().map(|value| (value / length) as f32).collect())
    }

    /// The number of vectors, their length, and all their values.
    fn token_vectors(
        &self,
        tokens: &[u32],
        lane: Arc<ThreadPool>,
    ) -> Result<(usize, usize, Vec<f32>), EncodeError> {
        let failed = |error: &dyn std::fmt::Display| EncodeError::Failed(error.to_string());
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (id, input) in &self.inputs {
            let numbers: Vec<i32> = match input {
                Input::Ids => tokens.iter().map(|token| *token as i32).collect(),
                Input::Mask => vec![1; tokens.len()],
                Input::Types => vec![0; tokens.len()],
                Input::Positions => (0..).take(tokens.len()).collect(),
            };
            let value = Value::from_shape([1, tokens.len()], numbers).map_err(|error| failed(&error))?;
            inputs.push((*id, value.into()));
        }
        let options = RunOptions::default().with_thread_pool(Some(lane));
        let mut outputs =
            self.model.run(inputs, &[self.output], Some(options)).map_err(|error| failed(&error))?;
        let output = outputs.pop().ok_or_else(|| failed(&"it has no output"))?;
        let ([_, count, dimension], values) =
            output.into_shape_vec::<f32, 3>().map_err(|error| failed(&error))?;
        Ok((count, dimension, values))
    }
}

/// A panic of the model is an error of this text alone.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, EncodeError> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        EncodeError::Panicked(text.unwrap_or("without a message").to_owned())
    })
}
