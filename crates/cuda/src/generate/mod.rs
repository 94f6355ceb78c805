//! CUDA C++ for any elementwise, norm or reduction group.
//!
//! ```
//! // See `Expression` for one that is generated.
//! ```

mod expression;

pub use expression::{Expression, Instruction, Store};
