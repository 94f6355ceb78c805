//! Says which TensorRT library is found, or where it was looked for.

use tintype_tensorrt_sys::callback::{Implementation, TracingLogger};
use tintype_tensorrt_sys::{Interface, Library, LoadOptions};

fn main() {
    let library = match Library::load(&LoadOptions::default()) {
        Ok(library) => library,
        Err(error) => return println!("{error}"),
    };
    println!("{} at {}", library.abi(), library.path().display());
    let logger = Implementation::logger(TracingLogger);
    // SAFETY: the logger outlives the builder, and nothing depends on the builder.
    let builder = unsafe { library.create_builder(logger.as_ptr()) };
    match builder {
        Ok(builder) => {
            println!("it builds engines");
            // SAFETY: the builder is owned here and not used any more.
            unsafe { builder.destroy() };
        }
        Err(error) => println!("{error}"),
    }
}
