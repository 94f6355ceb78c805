//! Turning four lines into columns with the shuffles of AVX.
//!
//! `pulp` hands out the instructions as safe methods of a token that proves that the
//! machine has them. Other machines take the plain loop of the caller.

/// Writes `panel[depth · group + line + i] = sources[i][depth]` for as many depths as
/// whole steps of eight cover; returns how many these are.
#[cfg(target_arch = "x86_64")]
pub(super) fn eight_depths(
    sources: [&[f32]; 4],
    line: usize,
    group: usize,
    panel: &mut [f32],
) -> usize {
    let token = match pulp::Arch::new() {
        pulp::x86::Arch::V4(token) => *token,
        pulp::x86::Arch::V3(token) => token,
        _ => return 0,
    };
    token.vectorize(Transpose {
        token,
        sources,
        line,
        group,
        panel,
    })
}

/// No instructions for it: the caller does all.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn eight_depths(_: [&[f32]; 4], _: usize, _: usize, _: &mut [f32]) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
struct Transpose<'a> {
    token: pulp::x86::V3,
    sources: [&'a [f32]; 4],
    line: usize,
    group: usize,
    panel: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Transpose<'_> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let Self {
            token,
            sources,
            line,
            group,
            panel,
        } = self;
        let avx = token.avx;
        let [first, second, third, fourth] = sources.map(|source| source.as_chunks::<8>().0);
        let inputs = first.iter().zip(second).zip(third).zip(fourth);
        for ((((a, b), c), d), target) in inputs.zip(panel.chunks_exact_mut(8 * group)) {
            let [a, b, c, d] = [a, b, c, d].map(|&values| bytemuck::cast(values));
            // Within each half of a vector: a0 b0 a1 b1, then a0 b0 c0 d0.
            let (ab_low, ab_high) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
            let columns = [
                avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
                avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
                avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
            ];
            for (depth, column) in columns.into_iter().enumerate() {
                let halves: [[f32; 4]; 2] = bytemuck::cast(column);
                target[depth * group + line..][..4].copy_from_slice(&halves[0]);
                target[(depth + 4) * group + line..][..4].copy_from_slice(&halves[1]);
            }
        }
        sources[0].len() / 8 * 8
    }
}
