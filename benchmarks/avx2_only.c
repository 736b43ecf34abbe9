/* Preloaded, this makes a process believe that its CPU ends at AVX2: no AVX-512, VNNI or AMX.
 *
 *     gcc -O2 -shared -fPIC -o avx2_only.so benchmarks/avx2_only.c
 *     LD_PRELOAD=$PWD/avx2_only.so mobilenet-cli quantize ...
 *
 * Libraries choose their kernels by CPUID. Linux can make that instruction fault
 * (arch_prctl(2), ARCH_SET_CPUID; Intel CPUs and VMs that have cpuid_fault in /proc/cpuinfo);
 * the handler answers with the real leaves less the bits below, and the kernels of an older CPU
 * run at native speed. Bits: Intel SDM vol. 2A, CPUID, leaf 7.
 *
 * With AVX2_ONLY_HIDES=amx only AMX is hidden, which leaves the kernels of VNNI.
 * Exits with status 77 where the kernel cannot do it.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static struct sigaction previous;
static int amx_alone;

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

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)r[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a real fault, not CPUID */
        if (previous.sa_flags & SA_SIGINFO)
            previous.sa_sigaction(signal_number, info, context);
        else
            signal(SIGSEGV, SIG_DFL); /* the instruction runs again and ends the process */
        return;
    }
    uint32_t leaf = r[REG_RAX], subleaf = r[REG_RCX], a, b, c, d;
    set_faulting(0);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    set_faulting(1);
    hide_newer_than_avx2(leaf, subleaf, &a, &b, &c, &d);
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *hides = getenv("AVX2_ONLY_HIDES");
    amx_alone = hides != NULL && strcmp(hides, "amx") == 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous);
    if (set_faulting(1) != 0) {
        perror("avx2_only: this machine cannot intercept CPUID");
        _exit(77);
    }
}
