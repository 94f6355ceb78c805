//! From a graph as plain data to a finalized operation graph of cuDNN.
//!
//! ```ignore
//! let graph = OperationGraph::new(library, handle, &description)?;
//! let configurations = choose::configurations(library, &graph, rule)?;
//! ```

use cudarc::cudnn::sys::{
    cudnnConvolutionMode_t, cudnnDataType_t, cudnnPointwiseMode_t, cudnnReduceTensorOp_t,
};
use tintype_tensor::DType;

use super::descriptor::{Descriptor, Kind, Name, Type};
use super::graph::{Function, GraphDescription, Operation, Reduction, Store, Tensor, TensorId};
use super::library::{Attempt, Library, RawHandle};

/// An operation graph with all that it was made from, which stays as long as it.
#[derive(Debug)]
pub(super) struct OperationGraph {
    // Fields are dropped in order: first what was made last.
    pub(super) graph: Descriptor,
    _operations: Vec<Descriptor>,
    _settings: Vec<Descriptor>,
    _tensors: Vec<Descriptor>,
}

impl OperationGraph {
    /// Makes the descriptors. The handle is that of the device, and nobody else uses it now.
    pub(super) fn new(
        library: &'static Library,
        handle: RawHandle,
        description: &GraphDescription,
    ) -> Attempt<Self> {
        let tensors = description
            .tensors
            .iter()
            .enumerate()
            .map(|(number, tensor)| tensor_descriptor(library, TensorId(number), tensor))
            .collect::<Attempt<Vec<_>>>()?;
        let mut builder = Builder {
            library,
            tensors: &tensors,
            settings: Vec::new(),
        };
        let operations = description
            .operations
            .iter()
            .map(|operation| builder.operation(operation))
            .collect::<Attempt<Vec<_>>>()?;
        let settings = builder.settings;
        let graph = Descriptor::new(library, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
            .with_descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?
            .with_handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?
            .finalized()?;
        Ok(Self {
            graph,
            _operations: operations,
            _settings: settings,
            _tensors: tensors,
        })
    }
}

fn tensor_descriptor(
    library: &'static Library,
    id: TensorId,
    tensor: &Tensor,
) -> Attempt<Descriptor> {
    let alignment = match tensor.store {
        Store::Memory { alignment, .. } => alignment as i64,
        Store::Virtual | Store::Scalar(_) | Store::Number(_) | Store::Spare(_) => 16,
    };
    let descriptor = Descriptor::new(library, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .with_choice(
            Name::CUDNN_ATTR_TENSOR_DATA_TYPE,
            Type::CUDNN_TYPE_DATA_TYPE,
            data_type(tensor.dtype),
        )?
        .with_integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &tensor.dims)?
        .with_integers(Name::CUDNN_ATTR_TENSOR_STRIDES, &tensor.strides)?
        .with_integers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id.unique()])?
        .with_integers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[alignment])?;
    let descriptor = match tensor.store {
        Store::Memory { .. } | Store::Number(_) | Store::Spare(_) => descriptor,
        Store::Virtual => descriptor.with_boolean(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, true)?,
        Store::Scalar(_) => descriptor.with_boolean(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, true)?,
    };
    descriptor.finalized()
}

/// Makes operations of tensors that are there.
struct Builder<'a> {
    library: &'static Library,
    tensors: &'a [Descriptor],
    /// What operations are set up by, to be kept with them.
    settings: Vec<Descriptor>,
}

impl Builder<'_> {
    fn tensor(&self, id: TensorId) -> &Descriptor {
        &self.tensors[id.0]
    }

    fn make(&self, kind: Kind) -> Attempt<Descriptor> {
        Descriptor::new(self.library, kind)
    }

    fn operation(&mut self, operation: &Operation) -> Attempt<Descriptor> {
        match operation {
            Operation::Convolution {
                input,
                weight,
                output,
                stride,
                before,
                after,
            } => {
                let setting = self.convolution_setting(*stride, *before, *after)?;
                self.convolution([*input, *weight, *output], setting)
            }
            Operation::Product {
                left,
                right,
                output,
            } => self.product([*left, *right, *output]),
            Operation::Pointwise {
                function,
                operands,
                output,
                math,
            } => self.pointwise(*function, operands, *output, *math),
            Operation::Reduce {
                reduction,
                input,
                output,
            } => self.reduce(*reduction, *input, *output),
            Operation::Attention {
                query,
                key,
                value,
                scale,
                output,
            } => self.attention([*query, *key, *value, *output, *scale]),
        }
    }

    fn convolution_setting(
        &self,
        stride: [i64; 2],
        before: [i64; 2],
        after: [i64; 2],
    ) -> Attempt<Descriptor> {
        self.make(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .with_choice(
                Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                data_type(DType::F32),
            )?
            .with_choice(
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Type::CUDNN_TYPE_CONVOLUTION_MODE,
                cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as u32,
            )?
            .with_integers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
            .with_integers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &before)?
            .with_integers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &after)?
            .with_integers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1, 1])?
            .with_integers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &stride)?
            .finalized()
    }

    fn convolution(
        &mut self,
        [input, weight, output]: [TensorId; 3],
        setting: Descriptor,
    ) -> Attempt<Descriptor> {
        let operation = self
            .make(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                self.tensor(input),
            )?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                self.tensor(weight),
            )?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                self.tensor(output),
            )?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                &setting,
            )?
            .with_float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?
            .with_float(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?
            .finalized()?;
        self.settings.push(setting);
        Ok(operation)
    }

    fn product(&mut self, [left, right, output]: [TensorId; 3]) -> Attempt<Descriptor> {
        let setting = self
            .make(Kind::CUDNN_BACKEND_MATMUL_DESCRIPTOR)?
            .with_choice(
                Name::CUDNN_ATTR_MATMUL_COMP_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                data_type(DType::F32),
            )?
            .finalized()?;
        let operation = self
            .make(Kind::CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_MATMUL_ADESC, self.tensor(left))?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_MATMUL_BDESC, self.tensor(right))?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_MATMUL_CDESC, self.tensor(output))?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_MATMUL_DESC, &setting)?
            .finalized()?;
        self.settings.push(setting);
        Ok(operation)
    }

    fn pointwise(
        &mut self,
        function: Function,
        operands: &[TensorId],
        output: TensorId,
        math: DType,
    ) -> Attempt<Descriptor> {
        let mut setting = self
            .make(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .with_choice(
                Name::CUDNN_ATTR_POINTWISE_MODE,
                Type::CUDNN_TYPE_POINTWISE_MODE,
                mode_of(function) as u32,
            )?
            .with_choice(
                Name::CUDNN_ATTR_POINTWISE_MATH_PREC,
                Type::CUDNN_TYPE_DATA_TYPE,
                data_type(math),
            )?;
        if let Function::Position(axis) = function {
            setting = setting.with_integers(Name::CUDNN_ATTR_POINTWISE_AXIS, &[axis as i64])?;
        }
        let setting = setting.finalized()?;
        let mut operation = self
            .make(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &setting)?;
        for (name, &operand) in OPERANDS.into_iter().zip(operands) {
            operation = operation.with_descriptor(name, self.tensor(operand))?;
        }
        let operation = operation
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
                self.tensor(output),
            )?
            .finalized()?;
        self.settings.push(setting);
        Ok(operation)
    }

    fn reduce(
        &mut self,
        reduction: Reduction,
        input: TensorId,
        output: TensorId,
    ) -> Attempt<Descriptor> {
        let kind = match reduction {
            Reduction::Max => cudnnReduceTensorOp_t::CUDNN_REDUCE_TENSOR_MAX,
            Reduction::Sum => cudnnReduceTensorOp_t::CUDNN_REDUCE_TENSOR_ADD,
            Reduction::GreatestMagnitude => cudnnReduceTensorOp_t::CUDNN_REDUCE_TENSOR_AMAX,
        };
        let setting = self
            .make(Kind::CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?
            .with_choice(
                Name::CUDNN_ATTR_REDUCTION_COMP_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                data_type(DType::F32),
            )?
            .with_choice(
                Name::CUDNN_ATTR_REDUCTION_OPERATOR,
                Type::CUDNN_TYPE_REDUCTION_OPERATOR_TYPE,
                kind as u32,
            )?
            .finalized()?;
        let operation = self
            .make(Kind::CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_REDUCTION_XDESC,
                self.tensor(input),
            )?
            .with_descriptor(
                Name::CUDNN_ATTR_OPERATION_REDUCTION_YDESC,
                self.tensor(output),
            )?
            .with_descriptor(Name::CUDNN_ATTR_OPERATION_REDUCTION_DESC, &setting)?
            .finalized()?;
        self.settings.push(setting);
        Ok(operation)
    }

    fn attention(&self, tensors: [TensorId; 5]) -> Attempt<Descriptor> {
        let names = [
            Name::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC,
            Name::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
            Name::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
            Name::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
            Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC,
        ];
        let mut operation = self.make(Kind::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?;
        for (name, tensor) in names.into_iter().zip(tensors) {
            operation = operation.with_descriptor(name, self.tensor(tensor))?;
        }
        operation.finalized()
    }
}

/// Of the first, second and third operand of a pointwise operation.
const OPERANDS: [Name; 3] = [
    Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
    Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
    Name::CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
];

fn mode_of(function: Function) -> cudnnPointwiseMode_t {
    match function {
        Function::Add => cudnnPointwiseMode_t::CUDNN_POINTWISE_ADD,
        Function::Subtract => cudnnPointwiseMode_t::CUDNN_POINTWISE_SUB,
        Function::Multiply => cudnnPointwiseMode_t::CUDNN_POINTWISE_MUL,
        Function::Divide => cudnnPointwiseMode_t::CUDNN_POINTWISE_DIV,
        Function::Exp => cudnnPointwiseMode_t::CUDNN_POINTWISE_EXP,
        Function::Log => cudnnPointwiseMode_t::CUDNN_POINTWISE_LOG,
        Function::Position(_) => cudnnPointwiseMode_t::CUDNN_POINTWISE_GEN_INDEX,
        Function::AtLeast => cudnnPointwiseMode_t::CUDNN_POINTWISE_CMP_GE,
        Function::Select => cudnnPointwiseMode_t::CUDNN_POINTWISE_BINARY_SELECT,
    }
}

fn data_type(dtype: DType) -> u32 {
    let ty = match dtype {
        DType::F16 => cudnnDataType_t::CUDNN_DATA_HALF,
        DType::BF16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        DType::F8E4M3 => cudnnDataType_t::CUDNN_DATA_FP8_E4M3,
        DType::I32 => cudnnDataType_t::CUDNN_DATA_INT32,
        DType::Bool => cudnnDataType_t::CUDNN_DATA_BOOLEAN,
        // Graphs hold no others.
        _ => cudnnDataType_t::CUDNN_DATA_FLOAT,
    };
    ty as u32
}
