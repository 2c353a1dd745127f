/* Shows an engine this CPU as one with AVX2 but without AVX-512, VNNI and AMX.
 *
 * In the copies of the engines that without_vnni.py makes, every CPUID is an `int 0xa2` of the same
 * length, which a program may not raise: the kernel sends SIGSEGV, and the handler here answers in
 * the instruction's place, with the bits of the newer instruction sets cleared. Engines then choose
 * their AVX2 kernels, which run natively. Loaded by LD_PRELOAD. /proc/cpuinfo is replaced by the
 * file that WITHOUT_VNNI_CPUINFO names, so that Python sees the same CPU. XGETBV is not hidden:
 * programs ask it only for instruction sets that CPUID names.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (UINT32_C(1) << (n))

/* Intel's manual, volume 2A, CPUID, leaf 7: which bits stand for what came after AVX2. */
static const uint32_t LEAF7_EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) |
                                  BIT(30) | BIT(31);               /* AVX-512 F to VL */
static const uint32_t LEAF7_ECX = BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) |
                                  BIT(14);                         /* VBMI, GFNI, VNNI, BITALG */
static const uint32_t LEAF7_EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
static const uint32_t LEAF7_1_EAX = BIT(4) | BIT(5) | BIT(21) | BIT(22) | BIT(23); /* AVX-VNNI */
static const uint32_t LEAF7_1_EDX = BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19);

/* What the program itself wants done about SIGSEGV (Python's faulthandler, for one). */
static struct sigaction wanted;

static int really_sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "sigaction");
    return real(number, new, old);
}

int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (number != SIGSEGV) return really_sigaction(number, new, old);
    if (old) *old = wanted;
    if (new) wanted = *new;
    return 0;
}

/* A fault or a signal that is none of ours: what the program wants done is done. */
static void pass_on(int number, siginfo_t *info, void *context) {
    int sent = info->si_code <= 0; /* by a process; it does not come again, as a fault does */
    if (wanted.sa_flags & SA_SIGINFO) {
        wanted.sa_sigaction(number, info, context);
    } else if (wanted.sa_handler != SIG_DFL && wanted.sa_handler != SIG_IGN) {
        wanted.sa_handler(number);
    } else if (wanted.sa_handler == SIG_DFL || !sent) {
        really_sigaction(number, &wanted, NULL);
        if (sent) raise(number);
    }
}

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || code[0] != 0xcd || code[1] != 0xa2) {
        pass_on(number, info, context);
        return;
    }
    uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        b &= ~LEAF7_EBX;
        c &= ~LEAF7_ECX;
        d &= ~LEAF7_EDX;
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~LEAF7_1_EAX;
        d &= ~LEAF7_1_EDX;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

static const char *shown(const char *path) {
    const char *other = getenv("WITHOUT_VNNI_CPUINFO");
    return other && strcmp(path, "/proc/cpuinfo") == 0 ? other : path;
}

#define OPEN(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                  \
        static int (*real)(const char *, int, ...);                                               \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                                     \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;                         \
        va_end(rest);                                                                             \
        return real(shown(path), flags, mode);                                                    \
    }
OPEN(open)
OPEN(open64)

__attribute__((constructor)) static void start(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    really_sigaction(SIGSEGV, &action, NULL);
}
