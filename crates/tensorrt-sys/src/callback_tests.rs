//! The library's part is played here: functions are called through the vtables.

use std::ffi::{CString, c_void};
use std::io::SeekFrom;
use std::sync::Mutex;

use super::*;
use crate::{ErrorCode, SeekPosition, Severity};

#[derive(Default)]
struct Recording(Mutex<Vec<String>>);

impl Recording {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

impl Logger for Recording {
    fn log(&self, severity: Severity, message: &CStr) {
        assert_ne!(message, c"panic", "as the test wants it");
        self.note(format!("{} {}", severity.0, message.to_string_lossy()));
    }
}

impl ProgressMonitor for Recording {
    fn phase_started(&self, phase: &CStr, parent: &CStr, steps: i32) {
        self.note(format!("{phase:?} in {parent:?}: {steps}"));
    }

    fn step_completed(&self, _phase: &CStr, step: i32) -> bool {
        step < 2
    }
}

impl StreamWriter for Recording {
    fn write(&self, bytes: &[u8]) -> Option<usize> {
        self.note(format!("{bytes:?}"));
        (bytes.len() < 3).then_some(bytes.len())
    }
}

impl StreamReader for Recording {
    unsafe fn read(
        &self,
        destination: *mut c_void,
        count: usize,
        _stream: crate::CudaStream,
    ) -> Option<usize> {
        // SAFETY: the test gives room for `count` bytes.
        unsafe { destination.cast::<u8>().write_bytes(7, count) };
        Some(count)
    }

    fn seek(&self, position: SeekFrom) -> bool {
        self.note(format!("{position:?}"));
        true
    }
}

#[test]
fn a_logger_gets_messages_and_survives_a_panic() {
    let logger = Implementation::logger(Recording::default());
    let this = logger.as_ptr();
    // SAFETY: the object is alive and its vtable a constant.
    unsafe {
        let vtable = &*(*this).vtable;
        (vtable.log)(this, Severity::WARNING, c"careful".as_ptr());
        (vtable.log)(this, Severity::ERROR, c"panic".as_ptr());
        (vtable.log)(this, Severity::ERROR, std::ptr::null());
        let info = (vtable.get_interface_info)(this);
        assert_eq!(CStr::from_ptr(info.kind), c"ILogger");
        assert_eq!((info.major, info.minor), (1, 0));
        assert_eq!((vtable.get_api_language)(this), APILanguage::CPP);
        (vtable.deleting_destructor)(this);
    }
    assert_eq!(
        logger.into_inner().0.into_inner().unwrap(),
        ["2 careful", "1 "]
    );
}

#[test]
fn a_progress_monitor_can_stop_a_build() {
    let monitor = Implementation::progress_monitor(Recording::default());
    let this = monitor.as_ptr();
    // SAFETY: the object is alive and its vtable a constant.
    unsafe {
        let vtable = &*(*this).vtable;
        (vtable.phase_start)(this, c"fuse".as_ptr(), std::ptr::null(), 3);
        assert!((vtable.step_complete)(this, c"fuse".as_ptr(), 1));
        assert!(!(vtable.step_complete)(this, c"fuse".as_ptr(), 2));
        (vtable.phase_finish)(this, c"fuse".as_ptr());
    }
    assert_eq!(*monitor.0.lock().unwrap(), ["\"fuse\" in \"\": 3"]);
}

#[test]
fn a_writer_says_how_much_it_took() {
    let writer = Implementation::stream_writer(Recording::default());
    let this = writer.as_ptr();
    let bytes = [1_u8, 2, 3];
    let cases = [(2, 2), (3, -1), (0, 0), (-1, -1)];
    for (count, expected) in cases {
        // SAFETY: the object is alive and there are three bytes.
        let taken = unsafe { ((*(*this).vtable).write)(this, bytes.as_ptr().cast(), count) };
        assert_eq!(taken, expected);
    }
    // SAFETY: null is allowed for.
    unsafe {
        assert_eq!(((*(*this).vtable).write)(this, std::ptr::null(), 4), -1);
    }
}

#[test]
fn a_reader_reads_and_seeks() {
    let reader = Implementation::stream_reader(Recording::default());
    let this = reader.as_ptr();
    let mut bytes = [0_u8; 4];
    // SAFETY: the object is alive and there is room for three bytes.
    unsafe {
        let vtable = &*(*this).vtable;
        let count = (vtable.read)(this, bytes.as_mut_ptr().cast(), 3, std::ptr::null_mut());
        assert_eq!((count, bytes), (3, [7, 7, 7, 0]));
        assert_eq!(
            (vtable.read)(this, bytes.as_mut_ptr().cast(), -3, std::ptr::null_mut()),
            -1
        );
        let cases = [
            (5, SeekPosition::SET, true),
            (-5, SeekPosition::SET, false),
            (-5, SeekPosition::CUR, true),
            (-5, SeekPosition::END, true),
            (0, SeekPosition(9), false),
        ];
        for (offset, origin, expected) in cases {
            assert_eq!((vtable.seek)(this, offset, origin), expected);
        }
    }
    assert_eq!(
        *reader.0.lock().unwrap(),
        ["Start(5)", "Current(-5)", "End(-5)"]
    );
}

#[test]
fn errors_are_kept_up_to_a_limit() {
    let recorder = Implementation::error_recorder();
    let this = recorder.as_ptr();
    // SAFETY: the object is alive and its vtable a constant.
    unsafe {
        let vtable = &*(*this).vtable;
        for index in 0..=ErrorRecorder::LIMIT {
            let text = CString::new(format!("error {index}")).unwrap();
            let has_room = (vtable.report_error)(this, ErrorCode::INVALID_STATE, text.as_ptr());
            assert_eq!(has_room, index < ErrorRecorder::LIMIT);
        }
        assert!((vtable.has_overflowed)(this));
        assert_eq!((vtable.get_nb_errors)(this), ErrorRecorder::LIMIT as i32);
        assert_eq!(CStr::from_ptr((vtable.get_error_desc)(this, 1)), c"error 1");
        assert_eq!((vtable.get_error_code)(this, 1), ErrorCode::INVALID_STATE);
        for index in [-1, ErrorRecorder::LIMIT as i32] {
            assert_eq!(CStr::from_ptr((vtable.get_error_desc)(this, index)), c"");
            assert_eq!(
                (vtable.get_error_code)(this, index),
                ErrorCode::UNSPECIFIED_ERROR
            );
        }
        assert_eq!((vtable.inc_ref_count)(this), 1);
        assert_eq!((vtable.dec_ref_count)(this), 0);
        assert_eq!(
            recorder.take()[0],
            (ErrorCode::INVALID_STATE, "error 0".to_owned())
        );
        assert_eq!((vtable.get_nb_errors)(this), 0);
        (vtable.report_error)(this, ErrorCode::INVALID_STATE, c"x".as_ptr());
        (vtable.clear)(this);
    }
    assert!(recorder.take().is_empty());
}

struct Pool;

// SAFETY: nothing of what it gives is ever used.
unsafe impl GpuAllocator for Pool {
    fn allocate(&self, size: u64, alignment: u64, _stream: crate::CudaStream) -> *mut c_void {
        std::ptr::without_provenance_mut((size * alignment) as usize)
    }

    unsafe fn deallocate(&self, memory: *mut c_void, _stream: crate::CudaStream) -> bool {
        !memory.is_null()
    }
}

#[test]
fn an_allocator_serves_both_forms() {
    let allocator = Implementation::gpu_allocator(Pool);
    let this = allocator.as_ptr();
    let null = std::ptr::null_mut::<c_void>();
    // SAFETY: the object is alive and its vtable a constant.
    unsafe {
        let vtable = &*(*this).vtable;
        assert_eq!((vtable.allocate)(this, 3, 256, 0).addr(), 768);
        let memory = (vtable.allocate_async)(this, 2, 256, 0, null);
        assert_eq!(memory.addr(), 512);
        assert!((vtable.deallocate)(this, memory));
        assert!(!(vtable.deallocate_async)(this, null, null));
        assert!((vtable.reallocate)(this, memory, 256, 9).is_null());
    }
}
