//! cuBLASLt's descriptors, made of a [`ProductLayout`] and destroyed when they are dropped.

use std::ffi::c_void;

use cudarc::cublaslt::sys::{
    self, cublasLtEpilogue_t as Epilogue, cublasLtMatmulDescAttributes_t as OperationAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayoutAttribute_t as MatrixAttribute,
};
use tintype_device::Stream;
use tintype_tensor::DType;

use super::layout::{Matrix, ProductLayout};
use super::library::{Library, Outcome, check};

/// What is computed, and where the bias and scales lie.
#[derive(Debug)]
pub(super) struct Operation {
    raw: sys::cublasLtMatmulDesc_t,
    /// What the descriptor points at, by [`Pointer`].
    pointers: [u64; 4],
}

/// What a descriptor points at: memory of the device that is read when the product runs, so that
/// what lies there may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pointer {
    /// What is added.
    Bias,
    /// What codes of A are multiplied by.
    ScaleA,
    /// The same of B.
    ScaleB,
    /// What the result is multiplied by before it becomes codes.
    FactorD,
}

/// How a matrix lies in memory.
#[derive(Debug)]
pub(super) struct MatrixDescriptor(sys::cublasLtMatrixLayout_t);

/// What algorithms are asked for.
#[derive(Debug)]
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

// SAFETY: a descriptor is plain memory of the host that no thread is bound to.
unsafe impl Send for Operation {}
// SAFETY: as above; changing one takes `&mut`.
unsafe impl Sync for Operation {}
// SAFETY: as above.
unsafe impl Send for MatrixDescriptor {}
// SAFETY: as above; nothing changes one after it was made.
unsafe impl Sync for MatrixDescriptor {}

/// An algorithm with the scratch memory that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Algorithm {
    pub(super) raw: sys::cublasLtMatmulAlgo_t,
    pub(super) workspace: usize,
}

/// The addresses of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointers {
    /// Of A, B and D.
    pub(super) operands: [u64; 3],
    /// Scratch memory as large as the algorithm needs.
    pub(super) workspace: u64,
}

impl Operation {
    /// Sums in f32 of products of the inputs' own dtypes; f32 is not rounded to TF32.
    pub(super) fn new(layout: &ProductLayout) -> Outcome<Self> {
        let mut raw = std::ptr::null_mut();
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        // SAFETY: the pointer is to a live value.
        let status = unsafe {
            sys::cublasLtMatmulDescCreate(&raw mut raw, compute, sys::cudaDataType::CUDA_R_32F)
        };
        check("making a descriptor", status)?;
        let mut operation = Self {
            raw,
            pointers: [0; 4],
        };
        let [a, b] = layout.transposed.map(i32::from);
        operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_TRANSA, a)?;
        operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_TRANSB, b)?;
        let epilogue = epilogue(layout.bias.is_some(), layout.gelu);
        operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        if let Some(bias) = layout.bias {
            let dtype = data_type(bias) as i32;
            operation.set(
                OperationAttribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                dtype,
            )?;
        }
        if let Some(scaling) = layout.scaling {
            let fast: i8 = 1;
            operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast)?;
            if scaling.are_vectors {
                let mode =
                    sys::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
                operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode)?;
                operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode)?;
            }
        }
        for pointer in layout.pointers() {
            // Without an address there are no algorithms; nothing reads this one.
            operation.point(pointer, ANY_ADDRESS)?;
        }
        Ok(operation)
    }

    /// Lets the descriptor point at something.
    pub(super) fn point(&mut self, pointer: Pointer, address: u64) -> Outcome<()> {
        if self.pointers[pointer as usize] != address {
            self.set(pointer.attribute(), address as *const c_void)?;
            self.pointers[pointer as usize] = address;
        }
        Ok(())
    }

    fn set<T: Copy>(&mut self, attribute: OperationAttribute, value: T) -> Outcome<()> {
        let (value, len) = (&raw const value, size_of::<T>());
        // SAFETY: the descriptor lives, and the value has `len` bytes that are copied.
        let status =
            unsafe { sys::cublasLtMatmulDescSetAttribute(self.raw, attribute, value.cast(), len) };
        check("setting up a descriptor", status)
    }
}

impl Pointer {
    fn attribute(self) -> OperationAttribute {
        match self {
            Self::Bias => OperationAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            Self::ScaleA => OperationAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
            Self::ScaleB => OperationAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
            Self::FactorD => OperationAttribute::CUBLASLT_MATMUL_DESC_D_SCALE_POINTER,
        }
    }
}

impl ProductLayout {
    /// What a descriptor of it points at.
    pub(super) fn pointers(&self) -> Vec<Pointer> {
        let mut pointers = Vec::new();
        if self.bias.is_some() {
            pointers.push(Pointer::Bias);
        }
        if let Some(scaling) = self.scaling {
            pointers.extend([Pointer::ScaleA, Pointer::ScaleB]);
            if scaling.has_output {
                pointers.push(Pointer::FactorD);
            }
        }
        pointers
    }

    /// The dtype and the number of what a descriptor points at.
    pub(super) fn pointed(&self, pointer: Pointer) -> (DType, usize) {
        let are_vectors = self.scaling.is_some_and(|scaling| scaling.are_vectors);
        match pointer {
            Pointer::Bias => (self.bias.unwrap_or(DType::F32), self.rows),
            Pointer::ScaleA if are_vectors => (DType::F32, self.rows),
            Pointer::ScaleB if are_vectors => (DType::F32, self.columns),
            Pointer::ScaleA | Pointer::ScaleB | Pointer::FactorD => (DType::F32, 1),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by this value and destroyed once.
        unsafe { sys::cublasLtMatmulDescDestroy(self.raw) };
    }
}

impl MatrixDescriptor {
    fn new(matrix: &Matrix, batch: usize) -> Outcome<Self> {
        let mut raw = std::ptr::null_mut();
        let (rows, columns) = (matrix.rows as u64, matrix.columns as u64);
        let (dtype, leading) = (data_type(matrix.dtype), matrix.leading as i64);
        // SAFETY: the pointer is to a live value.
        let status =
            unsafe { sys::cublasLtMatrixLayoutCreate(&raw mut raw, dtype, rows, columns, leading) };
        check("describing a matrix", status)?;
        let descriptor = Self(raw);
        if batch > 1 {
            let attribute = MatrixAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
            descriptor.set(attribute, batch as i32)?;
            let attribute = MatrixAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            descriptor.set(attribute, matrix.batch_stride as i64)?;
        }
        Ok(descriptor)
    }

    fn set<T: Copy>(&self, attribute: MatrixAttribute, value: T) -> Outcome<()> {
        let (value, len) = (&raw const value, size_of::<T>());
        // SAFETY: the descriptor lives, and the value has `len` bytes that are copied.
        let status =
            unsafe { sys::cublasLtMatrixLayoutSetAttribute(self.0, attribute, value.cast(), len) };
        check("describing a batch", status)
    }
}

impl Drop for MatrixDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by this value and destroyed once.
        unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

impl Preference {
    /// Algorithms with at most so much scratch memory, for these alignments, whose partial sums
    /// stay f32: any other would round more often than the product says.
    pub(super) fn new(workspace: usize, alignments: [usize; 3]) -> Outcome<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a live value.
        let status = unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut raw) };
        check("making preferences", status)?;
        let preference = Self(raw);
        let attribute = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        preference.set(attribute, workspace as u64)?;
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        let attribute = PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
        preference.set(attribute, schemes as u32)?;
        let [a, b, d] = alignments;
        for (attribute, alignment) in ALIGNMENTS.into_iter().zip([a, b, d, d]) {
            preference.set(attribute, alignment as u32)?;
        }
        Ok(preference)
    }

    fn set<T: Copy>(&self, attribute: PreferenceAttribute, value: T) -> Outcome<()> {
        let (value, len) = (&raw const value, size_of::<T>());
        // SAFETY: the preferences live, and the value has `len` bytes that are copied.
        let status = unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, value.cast(), len)
        };
        check("setting up preferences", status)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by this value and destroyed once.
        unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

/// A, B and D. Nothing is added to the product but a bias; where D is codes, C is a matrix that is
/// never read and has no memory, of the dtype that a bias has.
#[derive(Debug)]
pub(super) struct Matrices {
    operands: [MatrixDescriptor; 3],
    addend: Option<MatrixDescriptor>,
}

impl Matrices {
    pub(super) fn new(layout: &ProductLayout) -> Outcome<Self> {
        let [a, b, d] = &layout.matrices;
        let new = |matrix| MatrixDescriptor::new(matrix, layout.batch);
        let addend = layout.scaling.filter(|scaling| scaling.has_output);
        let addend = addend.map(|scaling| Matrix {
            dtype: scaling.addend,
            ..*d
        });
        Ok(Self {
            operands: [new(a)?, new(b)?, new(d)?],
            addend: addend.as_ref().map(new).transpose()?,
        })
    }

    /// A, B, C and D.
    fn raw(&self) -> [sys::cublasLtMatrixLayout_t; 4] {
        let [a, b, d] = &self.operands;
        let c = self.addend.as_ref().unwrap_or(d);
        [a.0, b.0, c.0, d.0]
    }

    /// The algorithms for an operation, those first that the library expects to be fastest.
    /// There are none if it knows none.
    pub(super) fn algorithms(
        &self,
        library: &Library,
        operation: &Operation,
        preference: &Preference,
    ) -> Outcome<Vec<Algorithm>> {
        let none = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut results = vec![none; MOST_ALGORITHMS];
        let mut count = 0;
        let [a, b, c, d] = self.raw();
        // SAFETY: all descriptors live, and there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.handle,
                operation.raw,
                a,
                b,
                c,
                d,
                preference.0,
                MOST_ALGORITHMS as i32,
                results.as_mut_ptr(),
                &raw mut count,
            )
        };
        match check("asking for algorithms", status) {
            Err(failure) if failure.is_unsupported() => return Ok(Vec::new()),
            other => other?,
        }
        results.truncate(usize::try_from(count).unwrap_or(0));
        results.retain(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        let algorithms = results.into_iter().map(|result| Algorithm {
            raw: result.algo,
            workspace: result.workspaceSize,
        });
        Ok(algorithms.collect())
    }

    /// The algorithm with what the library says of it now; an error if it does not know it.
    pub(super) fn check(
        &self,
        library: &Library,
        operation: &Operation,
        algorithm: &Algorithm,
    ) -> Outcome<Algorithm> {
        let mut result = sys::cublasLtMatmulHeuristicResult_t {
            algo: algorithm.raw,
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let [a, b, c, d] = self.raw();
        // SAFETY: all descriptors live; the library validates the algorithm, which is what is
        // asked of it, and writes one result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                library.handle,
                operation.raw,
                a,
                b,
                c,
                d,
                &raw const algorithm.raw,
                &raw mut result,
            )
        };
        check("checking an algorithm", status)?;
        check("checking an algorithm", result.state)?;
        Ok(Algorithm {
            raw: algorithm.raw,
            workspace: result.workspaceSize,
        })
    }

    /// Enqueues one call.
    ///
    /// # Safety
    /// The device's context is current. The operands' memory, what `operation` points at, and as
    /// much scratch memory as the algorithm needs stay until the stream is done.
    pub(super) unsafe fn enqueue(
        &self,
        library: &Library,
        operation: &Operation,
        algorithm: &Algorithm,
        pointers: Pointers,
        stream: &Stream,
    ) -> Outcome<()> {
        let [a_at, b_at, d_at] = pointers.operands.map(|address| address as *mut c_void);
        let c_at = match self.addend {
            Some(_) => std::ptr::null_mut(),
            None => d_at,
        };
        let [a, b, c, d] = self.raw();
        // SAFETY: the descriptors live, factors are read before the call returns, and the rest
        // is what the caller promises. C is not read, as the second factor is zero.
        let status = unsafe {
            sys::cublasLtMatmul(
                library.handle,
                operation.raw,
                (&raw const ONE).cast(),
                a_at,
                a,
                b_at,
                b,
                (&raw const ZERO).cast(),
                c_at,
                c,
                d_at,
                d,
                &raw const algorithm.raw,
                pointers.workspace as *mut c_void,
                algorithm.workspace,
                stream.as_raw().cast(),
            )
        };
        check("enqueueing", status)
    }
}

fn epilogue(has_bias: bool, has_gelu: bool) -> Epilogue {
    match (has_bias, has_gelu) {
        (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
        (true, false) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
        (false, true) => Epilogue::CUBLASLT_EPILOGUE_GELU,
        (true, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
    }
}

/// The library's name of a dtype that a layout may have.
fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F8E4M3 => sys::cudaDataType::CUDA_R_8F_E4M3,
        other => unreachable!("no layout has {other}"),
    }
}

const ALIGNMENTS: [PreferenceAttribute; 4] = [
    PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
];

/// As many algorithms as are asked for; the library knows fewer for most products.
const MOST_ALGORITHMS: usize = 64;

/// Aligned to all that a kernel could ask for.
const ANY_ADDRESS: u64 = 1 << 20;

static ONE: f32 = 1.0;
static ZERO: f32 = 0.0;
