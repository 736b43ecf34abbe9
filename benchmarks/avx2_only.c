/* Preloaded, this makes a process believe that its CPU ends at AVX2: no AVX-512, VNNI or AMX.
 *
 *     gcc -O2 -shared -fPIC -o avx2_only.so benchmarks/avx2_only.c
 *     LD_PRELOAD=$PWD/avx2_only.so mobilenet-cli quantize ...
 *
 * Libraries choose their kernels by CPUID. A handler answers that instruction with the real leaves
 * less the bits below, and the kernels of an older CPU run at native speed. Bits: Intel SDM vol. 2A,
 * CPUID, leaf 7.
 *
 * Linux can make the instruction fault (arch_prctl(2), ARCH_SET_CPUID; Intel CPUs and VMs that have
 * cpuid_fault in /proc/cpuinfo). Elsewhere each library is searched when it is loaded, and in the
 * memory of this process the instruction becomes UD2, which is as long and faults everywhere. What
 * reads CPUID in its constructors, as OpenBLAS does, has done so by then; ONNX Runtime, OpenVINO and
 * ncnn read it when they are first used.
 *
 * With AVX2_ONLY_HIDES=amx only AMX is hidden, which leaves the kernels of VNNI.
 * AVX2_ONLY_REWRITES=1 takes the second way on every machine. Exits with status 77 where neither can
 * be done.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))
#define MOST 4096 /* libraries, and places in them; a process of every engine has 400 of each */

static const uint8_t CPUID[] = {0x0f, 0xa2}, UD2[] = {0x0f, 0x0b};
static struct sigaction previous;
static int amx_alone, by_rewriting;
static const void *rewritten[MOST];
static ElfW(Addr) searched[MOST];
static int rewritten_count, searched_count;

static long set_faulting(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void hide_newer_than_avx2(uint32_t leaf, uint32_t subleaf, uint32_t *a, uint32_t *b,
                                 uint32_t *c, uint32_t *d) {
    if (leaf == 7 && subleaf == 0)
        *d &= ~(BIT(22) | BIT(24) | BIT(25)); /* AMX: BF16 TILE INT8 */
    if (leaf == 7 && subleaf == 1)
        *a &= ~BIT(21); /* AMX-FP16 */
    if (amx_alone)
        return;
    if (leaf == 7 && subleaf == 0) {
        /* AVX512: F DQ IFMA PF ER CD BW VL */
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        /* AVX512: VBMI VBMI2 VNNI BITALG VPOPCNTDQ */
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        /* AVX512: 4VNNIW 4FMAPS VP2INTERSECT FP16 */
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
    } else if (leaf == 7 && subleaf == 1) {
        *a &= ~(BIT(4) | BIT(5)); /* AVX-VNNI, AVX512-BF16 */
        /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10 */
        *d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19));
    }
}

static int is_rewritten(const void *at) {
    for (int i = 0; i < rewritten_count; i++)
        if (rewritten[i] == at)
            return 1;
    return 0;
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const void *at = (const void *)r[REG_RIP];
    if (by_rewriting ? !is_rewritten(at) : memcmp(at, CPUID, 2) != 0) { /* a real fault */
        if (previous.sa_flags & SA_SIGINFO)
            previous.sa_sigaction(signal_number, info, context);
        else
            signal(signal_number, SIG_DFL); /* the instruction runs again and ends the process */
        return;
    }
    uint32_t leaf = r[REG_RAX], subleaf = r[REG_RCX], a, b, c, d;
    if (!by_rewriting)
        set_faulting(0);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (!by_rewriting)
        set_faulting(1);
    hide_newer_than_avx2(leaf, subleaf, &a, &b, &c, &d);
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

/* Tell CPUID from the same two bytes within another instruction, by what compilers write before it:
 * leaf 7 as a constant (MOV EAX, imm32) and at most a few instructions, or the move of a parameter
 * to EAX or ECX (MOV r/m32, r32; Intel SDM vol. 2B). */
static int is_cpuid(const uint8_t *at, const uint8_t *start) {
    static const uint8_t leaf_7[] = {0xb8, 7, 0, 0, 0};
    if (at - start < 24)
        return 0;
    if (at[-2] == 0x89 && (at[-1] & 0xc6) == 0xc0)
        return 1;
    return memmem(at - 24, 24, leaf_7, sizeof leaf_7) != NULL;
}

static void rewrite(uint8_t *at) {
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    uint8_t *first = (uint8_t *)((uintptr_t)at & ~(page - 1));
    size_t length = at + 2 - first;
    if (rewritten_count == MOST || mprotect(first, length, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        _exit(77);
    rewritten[rewritten_count++] = at;
    memcpy(at, UD2, sizeof UD2);
    mprotect(first, length, PROT_READ | PROT_EXEC);
}

static int search(struct dl_phdr_info *object, size_t size, void *unused) {
    (void)size, (void)unused;
    for (int i = 0; i < searched_count; i++)
        if (searched[i] == object->dlpi_addr)
            return 0;
    if (searched_count == MOST)
        _exit(77);
    searched[searched_count++] = object->dlpi_addr;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uint8_t *start = (uint8_t *)(object->dlpi_addr + segment->p_vaddr);
        uint8_t *end = start + segment->p_filesz;
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
            continue;
        if (start <= (uint8_t *)on_fault && (uint8_t *)on_fault < end) /* this library */
            continue;
        for (uint8_t *at = start; (at = memmem(at, end - at, CPUID, 2)) != NULL; at += 2)
            if (is_cpuid(at, start))
                rewrite(at);
    }
    return 0;
}

void *dlopen(const char *name, int flags) {
    void *(*real)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    void *handle = real(name, flags);
    if (by_rewriting)
        dl_iterate_phdr(search, NULL);
    return handle;
}

__attribute__((constructor)) static void start(void) {
    const char *hides = getenv("AVX2_ONLY_HIDES");
    amx_alone = hides != NULL && strcmp(hides, "amx") == 0;
    by_rewriting = getenv("AVX2_ONLY_REWRITES") != NULL || set_faulting(1) != 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(by_rewriting ? SIGILL : SIGSEGV, &action, &previous);
    if (by_rewriting)
        dl_iterate_phdr(search, NULL);
}
