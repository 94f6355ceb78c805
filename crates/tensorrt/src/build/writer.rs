//! Takes a plan from the library and hands it to a writer.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tintype_tensorrt_sys::callback::StreamWriter;

/// A writer that remembers its failure: the library goes on after one and reports success.
pub(super) struct PlanWriter<'w>(Mutex<State<'w>>);

struct State<'w> {
    writer: &'w mut (dyn Write + Send),
    written: u64,
    failure: Option<io::Error>,
}

impl<'w> PlanWriter<'w> {
    pub(super) fn new(writer: &'w mut (dyn Write + Send)) -> Self {
        Self(Mutex::new(State {
            writer,
            written: 0,
            failure: None,
        }))
    }

    /// How many bytes were written, all of them.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn finish(self) -> io::Result<u64> {
        let State {
            writer,
            written,
            failure,
        } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = failure {
            return Err(failure);
        }
        writer.flush()?;
        Ok(written)
    }
}

impl StreamWriter for PlanWriter<'_> {
    fn write(&self, bytes: &[u8]) -> Option<usize> {
        // A writer that panicked has failed, and nothing more is given to it.
        let mut state = self.0.lock().ok()?;
        if state.failure.is_some() {
            return None;
        }
        // Kept while the writer runs, for the case that it panics.
        state.failure = Some(io::Error::other("the writer panicked"));
        state.failure = state.writer.write_all(bytes).err();
        if state.failure.is_some() {
            return None;
        }
        state.written += bytes.len() as u64;
        Some(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes.
    struct Small {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.taken.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_bytes_are_counted() {
        let mut bytes = Vec::new();
        let writer = PlanWriter::new(&mut bytes);
        assert_eq!(writer.write(b"abc"), Some(3));
        assert_eq!(writer.write(b"de"), Some(2));
        assert_eq!(writer.finish().unwrap(), 5);
        assert_eq!(bytes, b"abcde");
    }

    #[test]
    fn a_failure_is_remembered_and_ends_the_writing() {
        let mut small = Small {
            room: 4,
            taken: Vec::new(),
        };
        let writer = PlanWriter::new(&mut small);
        assert_eq!(writer.write(b"abc"), Some(3));
        assert_eq!(writer.write(b"def"), None);
        assert_eq!(writer.write(b""), None);
        assert_eq!(
            writer.finish().unwrap_err().kind(),
            io::ErrorKind::WriteZero
        );
        assert_eq!(small.taken, b"abcd");
    }
}
