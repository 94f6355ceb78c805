//! Hands a plan to the library, piece by piece.

use std::ffi::c_void;
use std::io::{self, Read, Seek, SeekFrom};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use tintype_device::cudarc::driver::{result, sys};
use tintype_tensorrt_sys::CudaStream;
use tintype_tensorrt_sys::callback::StreamReader;

/// A reader from where it is, and its first failure.
pub(super) struct PlanReader<R>(Mutex<State<R>>);

struct State<R> {
    reader: R,
    /// Where the plan begins.
    start: u64,
    failure: Option<io::Error>,
    /// On the way to the device.
    buffer: Vec<u8>,
}

/// How much goes to the device at once.
const PIECE: usize = 4 << 20;

impl<R: Read + Seek> PlanReader<R> {
    pub(super) fn new(mut reader: R) -> io::Result<Self> {
        let start = reader.stream_position()?;
        Ok(Self(Mutex::new(State {
            reader,
            start,
            failure: None,
            buffer: Vec::new(),
        })))
    }

    /// The first failure, if there was one.
    pub(super) fn failure(self) -> Option<io::Error> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure
    }

    fn with<T>(&self, what: impl FnOnce(&mut State<R>) -> io::Result<T>) -> Option<T> {
        let mut state = self.0.lock().ok()?;
        if state.failure.is_some() {
            return None;
        }
        match what(&mut state) {
            Ok(value) => Some(value),
            Err(error) => {
                state.failure = Some(error);
                None
            }
        }
    }
}

impl<R: Read + Seek + Send> StreamReader for PlanReader<R> {
    unsafe fn read(
        &self,
        destination: *mut c_void,
        count: usize,
        stream: CudaStream,
    ) -> Option<usize> {
        self.with(|state| {
            if is_on_device(destination) {
                // SAFETY: the caller vouches for the memory and the stream.
                unsafe { state.read_to_device(destination, count, stream) }
            } else {
                // SAFETY: the caller vouches for the memory; it belongs to the library, which
                // does not touch it until this returns. Zeros make it initialized.
                let bytes = unsafe {
                    ptr::write_bytes(destination.cast::<u8>(), 0, count);
                    std::slice::from_raw_parts_mut(destination.cast::<u8>(), count)
                };
                read_all(&mut state.reader, bytes)
            }
        })
    }

    fn seek(&self, position: SeekFrom) -> bool {
        let sought = self.with(|state| {
            // The library counts from the plan's beginning, not from the reader's.
            let position = match position {
                SeekFrom::Start(offset) => SeekFrom::Start(state.start.saturating_add(offset)),
                other => other,
            };
            let reached = state.reader.seek(position)?;
            if reached < state.start {
                return Err(io::Error::other(
                    "the library went before the plan's beginning",
                ));
            }
            Ok(())
        });
        sought.is_some()
    }
}

impl<R: Read> State<R> {
    /// # Safety
    /// `destination` is memory of the current device with room for `count` bytes.
    unsafe fn read_to_device(
        &mut self,
        destination: *mut c_void,
        count: usize,
        stream: CudaStream,
    ) -> io::Result<usize> {
        let stream = stream.cast();
        let mut done = 0;
        while done < count {
            self.buffer.resize(PIECE.min(count - done), 0);
            let got = read_all(&mut self.reader, &mut self.buffer)?;
            if got == 0 {
                break;
            }
            let to = destination as u64 + done as u64;
            // SAFETY: the range lies within the caller's memory, and the buffer is not touched
            // before the copy is done.
            unsafe {
                result::memcpy_htod_async(to, &self.buffer[..got], stream)
                    .and_then(|()| result::stream::synchronize(stream))
                    .map_err(|error| io::Error::other(format!("copying a plan: {error:?}")))?;
            }
            done += got;
        }
        Ok(done)
    }
}

/// Reads until the buffer is full or nothing more comes.
fn read_all(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match reader.read(&mut bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether the host cannot write there. Ordinary memory is unknown to the driver.
fn is_on_device(pointer: *mut c_void) -> bool {
    // SAFETY: asked without effect whether the driver's library is there.
    if !unsafe { sys::is_culib_present() } {
        return false;
    }
    let mut kind = 0_u32;
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    // SAFETY: the attribute is an unsigned int, and the pointer is not followed.
    let status =
        unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, pointer as u64) };
    status == sys::CUresult::CUDA_SUCCESS && kind == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(reader: &PlanReader<impl Read + Seek + Send>, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        // SAFETY: there is room for `count` bytes of host memory.
        let got = unsafe { reader.read(bytes.as_mut_ptr().cast(), count, ptr::null_mut()) }?;
        bytes.truncate(got);
        Some(bytes)
    }

    #[test]
    fn a_plan_begins_where_the_reader_is() {
        let mut cursor = Cursor::new(b"header0123456789".to_vec());
        cursor.set_position(6);
        let reader = PlanReader::new(cursor).unwrap();
        assert_eq!(read(&reader, 3).unwrap(), b"012");
        assert!(reader.seek(SeekFrom::Start(8)));
        assert_eq!(read(&reader, 5).unwrap(), b"89");
        assert_eq!(read(&reader, 5).unwrap(), b"");
        assert!(reader.seek(SeekFrom::End(-1)));
        assert_eq!(read(&reader, 5).unwrap(), b"9");
        assert!(!reader.seek(SeekFrom::Current(-12)));
        assert!(reader.failure().is_some());
    }

    #[test]
    fn a_failure_is_kept() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        impl Seek for Broken {
            fn seek(&mut self, _position: SeekFrom) -> io::Result<u64> {
                Ok(0)
            }
        }
        let reader = PlanReader::new(Broken).unwrap();
        assert_eq!(read(&reader, 1), None);
        assert!(!reader.seek(SeekFrom::Start(0)));
        assert_eq!(reader.failure().unwrap().to_string(), "the disk is gone");
    }
}
