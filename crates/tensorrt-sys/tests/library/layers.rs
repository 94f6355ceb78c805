//! One network with every kind of layer that diffusion models are made of, and settings read back.

use std::ffi::CStr;
use std::path::Path;

use libtest_mimic::Failed;
use tintype_tensorrt_sys::{
    ActivationType, AttentionNormalizationOp, BuilderFlag, CausalMaskKind, DataType, Dims,
    ElementWiseOperation, FillOperation, IBuilderConfig, ILayer, INetworkDefinition, ITensor,
    Interface, InterpolationMode, Library, MatrixOperation, MemoryPoolType, Newer,
    OptProfileSelector, Permutation, ReduceOperation, TopKOperation, UnaryOperation, Weights,
};

use super::{Objects, alone, logger, output, plan_of};

/// A network of tokens `[batch, tokens, 64]`, with a batch of 1 to 4, and of pictures.
pub(super) fn every_kind(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let library = Library::open(path, Newer::Refuse)?;
    // SAFETY: the logger lives for ever, and the constants longer than the build.
    unsafe {
        let objects = Objects::new(&library)?;
        let constants = Constants {
            network: objects.network,
            ones: vec![1.0; 8192],
        };
        let tokens = transformer(&constants)?;
        mark(objects.network, tokens, c"tokens")?;
        let picture = picture(&constants)?;
        mark(objects.network, picture, c"picture")?;
        let index = indices(&constants)?;
        mark(objects.network, index, c"index")?;
        profile(&objects)?;
        let plan = plan_of(&objects, usize::MAX)?.ok_or_else(|| logger().errors())?;
        assert!(plan.len() > 1000);
    }
    Ok(())
}

struct Constants {
    network: INetworkDefinition,
    /// Values of every constant.
    ones: Vec<f32>,
}

impl Constants {
    /// # Safety
    /// The network is alive, and `self` until it was built.
    unsafe fn ones(&self, shape: &[i64]) -> Result<ITensor, Failed> {
        let weights = self.weights(shape.iter().product());
        // SAFETY: as the caller says.
        unsafe {
            let layer = self.network.add_constant(&Dims::new(shape)?, weights)?;
            output(layer.ok_or("no constant")?.into())
        }
    }

    /// Other counts need other addresses: the library tells weights apart by them.
    fn weights(&self, count: i64) -> Weights {
        let start = self.ones.len() - count as usize;
        Weights::new(DataType::FLOAT, self.ones[start..].as_ptr().cast(), count)
    }
}

/// The output of a layer that the library has or has not made.
macro_rules! layer {
    ($layer:expr) => {
        output(ILayer::from(
            $layer?.ok_or(concat!("nothing from ", stringify!($layer)))?,
        ))?
    };
}

/// Normalization, a product, attention, an activation, a residual, a softmax.
///
/// # Safety
/// The network is alive.
unsafe fn transformer(constants: &Constants) -> Result<ITensor, Failed> {
    let network = constants.network;
    // SAFETY: as the caller says.
    unsafe {
        let shape = Dims::new(&[-1, 16, 64])?;
        let x = network
            .add_input(c"x".as_ptr(), DataType::FLOAT, &shape)?
            .ok_or("no input")?;
        let (scale, bias) = (constants.ones(&[1, 1, 64])?, constants.ones(&[1, 1, 64])?);
        let normal = layer!(network.add_normalization_v2(x, scale, bias, 1 << 2));
        let weight = constants.ones(&[1, 64, 64])?;
        let (plain, turned) = (MatrixOperation::NONE, MatrixOperation::TRANSPOSE);
        let product = layer!(network.add_matrix_multiply(normal, plain, weight, turned));
        let heads = network.add_shuffle(product)?.ok_or("no shuffle")?;
        heads.set_reshape_dimensions(&Dims::new(&[-1, 16, 4, 16])?)?;
        heads.set_second_transpose(&Permutation::new(&[0, 2, 1, 3])?)?;
        let transposed = *heads.get_second_transpose()?;
        assert_eq!(transposed.order[..4], [0, 2, 1, 3]);
        let heads = output(heads.into())?;
        let attention = network
            .add_attention_v2(
                heads,
                heads,
                heads,
                AttentionNormalizationOp::SOFTMAX,
                CausalMaskKind::NONE,
            )?
            .ok_or("no attention")?;
        assert!(attention.set_decomposable(true)?);
        let attended = attention
            .get_output(0)?
            .ok_or("no output of the attention")?;
        let merged = network.add_shuffle(attended)?.ok_or("no shuffle")?;
        merged.set_first_transpose(&Permutation::new(&[0, 2, 1, 3])?)?;
        merged.set_reshape_dimensions(&Dims::new(&[-1, 16, 64])?)?;
        let merged = output(merged.into())?;
        let activated = layer!(network.add_activation(merged, ActivationType::GELU_TANH));
        let sum = layer!(network.add_element_wise(activated, x, ElementWiseOperation::SUM));
        let root = layer!(network.add_unary(sum, UnaryOperation::ABS));
        let mean = layer!(network.add_reduce(root, ReduceOperation::AVG, 1 << 2, true));
        let softmax = network.add_soft_max(sum)?.ok_or("no softmax")?;
        softmax.set_axes(1 << 2)?;
        let softmax = output(softmax.into())?;
        let joined = [mean.as_ptr(), softmax.as_ptr()];
        let concat = network
            .add_concatenation(joined.as_ptr(), 2)?
            .ok_or("no concatenation")?;
        concat.set_axis(2)?;
        let concat = output(concat.into())?;
        assert_eq!(concat.get_dimensions()?.as_slice(), [-1, 16, 65]);
        Ok(layer!(network.add_cast(concat, DataType::BF16)))
    }
}

/// Convolution with padding, enlarged, and its scale quantized and back.
///
/// # Safety
/// The network is alive.
unsafe fn picture(constants: &Constants) -> Result<ITensor, Failed> {
    let network = constants.network;
    // SAFETY: as the caller says.
    unsafe {
        let shape = Dims::new(&[1, 4, 8, 8])?;
        let image = network
            .add_input(c"image".as_ptr(), DataType::FLOAT, &shape)?
            .ok_or("no input")?;
        let kernel = Dims::new(&[3, 3])?;
        let (weights, bias) = (constants.weights(8 * 4 * 9), constants.weights(8));
        let convolution = network
            .add_convolution_nd(image, 8, &kernel, weights, bias)?
            .ok_or("no convolution")?;
        convolution.set_padding_nd(&Dims::new(&[1, 1])?)?;
        assert_eq!(convolution.get_padding_nd()?.as_slice(), [1, 1]);
        assert_eq!(convolution.get_nb_output_maps()?, 8);
        let convolution = output(convolution.into())?;
        let resize = network.add_resize(convolution)?.ok_or("no resize")?;
        let scales = [1.0_f32, 1.0, 2.0, 2.0];
        resize.set_scales(scales.as_ptr(), 4)?;
        resize.set_resize_mode(InterpolationMode::NEAREST)?;
        let large = output(resize.into())?;
        let (start, size, stride) = ([0, 0, 1, 1], [1, 8, 15, 15], [1; 4]);
        let slice = network.add_slice(
            large,
            &Dims::new(&start)?,
            &Dims::new(&size)?,
            &Dims::new(&stride)?,
        );
        let slice = layer!(slice);
        assert_eq!(slice.get_dimensions()?.as_slice(), size);
        let scale = constants.ones(&[])?;
        let quantized = layer!(network.add_quantize_v2(slice, scale, DataType::FP8));
        Ok(layer!(network.add_dequantize_v2(
            quantized,
            scale,
            DataType::FLOAT
        )))
    }
}

/// Counting, choosing the largest, gathering by it, selecting.
///
/// # Safety
/// The network is alive.
unsafe fn indices(constants: &Constants) -> Result<ITensor, Failed> {
    let network = constants.network;
    // SAFETY: as the caller says.
    unsafe {
        let fill = network
            .add_fill_v2(&Dims::new(&[4])?, FillOperation::LINSPACE, DataType::FLOAT)?
            .ok_or("no fill")?;
        fill.set_alpha(0.0)?;
        fill.set_beta(1.0)?;
        // The largest is looked for among two dimensions or more.
        let row = network
            .add_shuffle(output(fill.into())?)?
            .ok_or("no shuffle")?;
        row.set_reshape_dimensions(&Dims::new(&[1, 4])?)?;
        let counted = output(row.into())?;
        let ones = constants.ones(&[1, 4])?;
        let less = layer!(network.add_element_wise(counted, ones, ElementWiseOperation::LESS));
        let selected = layer!(network.add_select(less, counted, ones));
        let largest = network
            .add_top_k(selected, TopKOperation::MAX, 1, 1 << 1)?
            .ok_or("no top-k")?;
        let index = ILayer::from(largest).get_output(1)?.ok_or("no indices")?;
        assert_eq!(index.get_type()?, DataType::INT32);
        Ok(layer!(network.add_gather(
            constants.ones(&[4, 2])?,
            index,
            0
        )))
    }
}

/// # Safety
/// Network and tensor are alive.
unsafe fn mark(network: INetworkDefinition, tensor: ITensor, name: &CStr) -> Result<(), Failed> {
    // SAFETY: as the caller says.
    unsafe {
        tensor.set_name(name.as_ptr())?;
        network.mark_output(tensor)?;
        assert!(tensor.is_network_output()?);
        Ok(())
    }
}

/// # Safety
/// The objects are alive.
unsafe fn profile(objects: &Objects) -> Result<(), Failed> {
    // SAFETY: as the caller says.
    unsafe {
        let profile = objects
            .builder
            .create_optimization_profile()?
            .ok_or("no profile")?;
        let sizes = [
            (OptProfileSelector::MIN, 1),
            (OptProfileSelector::OPT, 2),
            (OptProfileSelector::MAX, 4),
        ];
        for (select, batch) in sizes {
            assert!(profile.set_dimensions(
                c"x".as_ptr(),
                select,
                &Dims::new(&[batch, 16, 64])?
            )?);
        }
        let optimum = profile.get_dimensions(c"x".as_ptr(), OptProfileSelector::OPT)?;
        assert_eq!(optimum.as_slice(), [2, 16, 64]);
        assert!(profile.is_valid()?);
        assert_eq!(objects.config.add_optimization_profile(Some(profile))?, 0);
        assert_eq!(objects.config.get_nb_optimization_profiles()?, 1);
        Ok(())
    }
}

/// Settings on both ends of vtables come back as they were set.
pub(super) fn settings(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let library = Library::open(path, Newer::Refuse)?;
    // SAFETY: the logger lives for ever.
    unsafe {
        let objects = Objects::new(&library)?;
        let config: IBuilderConfig = objects.config;
        let flags = [BuilderFlag::STRIP_PLAN, BuilderFlag::STRICT_NANS];
        for flag in flags {
            assert!(!config.get_flag(flag)?);
            config.set_flag(flag)?;
            assert!(config.get_flag(flag)?);
        }
        let bits = flags.iter().map(|flag| 1 << flag.0).sum::<u32>();
        assert_eq!(config.get_flags()? & bits, bits);
        config.set_memory_pool_limit(MemoryPoolType::WORKSPACE, 1 << 28)?;
        assert_eq!(
            config.get_memory_pool_limit(MemoryPoolType::WORKSPACE)?,
            1 << 28
        );
        assert_eq!(config.get_nb_compute_capabilities()?, 1);
        assert!(objects.builder.set_max_threads(2)?);
        assert_eq!(objects.builder.get_max_threads()?, 2);
        let network = objects.network;
        network.set_name(c"settings".as_ptr())?;
        assert_eq!(CStr::from_ptr(network.get_name()?), c"settings");
        assert_eq!(network.get_builder()?, objects.builder);
        assert_eq!(network.get_nb_inputs()?, 0);
    }
    Ok(())
}
