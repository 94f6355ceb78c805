// Tensor cores of sm_80 and later, and copies to shared memory that pass no registers. Kernels
// that need them call these functions only, so that tests can put others in their place.

#define DYNAMIC_SHARED(name) alignas(128) extern __shared__ u8 name[]

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    u32 address;
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }"
        : "=r"(address)
        : "l"(pointer));
    return address;
}

// 16 bytes, or zeros where there is nothing. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_16(void* to, const void* from, bool is_there) {
    const u32 bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" : : : "memory");
}

// Waits until at most so many of this thread's last groups are under way.
template <int Left> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" : : "n"(Left) : "memory");
}

// Four matrices of 8 rows of 16 bytes; lane `8 i + r` gives the address of row `r` of matrix `i`.
// Of each, a lane gets elements `2 (lane % 4)` and the next of row `lane / 4`.
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the matrices turned: elements of rows `2 (lane % 4)` and the next, column `lane / 4`.
__device__ __forceinline__ void load_turned_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sums[16, 8] += a[16, 16] · b[16, 8]. With g = lane / 4 and t = 2 (lane % 4), the lane has
// sums (g, t), (g, t+1), (g+8, t), (g+8, t+1); pairs of a at (g, t), (g+8, t), (g, t+8), (g+8, t+8);
// pairs of b at (t, g), (t+8, g) along k.
template <class T>
__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <>
__device__ __forceinline__ void multiply<bf16>(
    float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1
) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply<f16>(
    float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1
) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to 16 bits each.
template <class T> __device__ __forceinline__ u32 pair_of(float low, float high);

template <> __device__ __forceinline__ u32 pair_of<bf16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <> __device__ __forceinline__ u32 pair_of<f16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
