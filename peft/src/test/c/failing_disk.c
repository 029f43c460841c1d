/* A disk that fails: loaded before the C library, it counts the calls that change files below one folder and lets the
   n-th fail as on a full disk, alone or with all that follow, as if the process had ended there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char below[4096];
static long at, ever, count;

void failing_disk(const char *folder, long nth, long and_after) {
    snprintf(below, sizeof below, "%s", folder ? folder : "");
    at = nth;
    ever = and_after;
    count = 0;
}

long failing_disk_count(void) { return count; }

/* Whether this call is one that fails. */
static int fails(const char *path) {
    if (!below[0] || strncmp(path, below, strlen(below)) != 0) return 0;
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (now != at && !(ever && now > at)) return 0;
    errno = ENOSPC;
    return 1;
}

static int fails_fd(int fd) {
    if (!below[0]) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name)
#define ON_PATH(name, parameters, path, ...) \
    int name parameters { REAL(name); return fails(path) ? -1 : real(__VA_ARGS__); }
#define ON_FD(type, name, parameters, fd, ...) \
    type name parameters { REAL(name); return fails_fd(fd) ? -1 : real(__VA_ARGS__); }

ON_PATH(mkdir, (const char *p, mode_t m), p, p, m)
ON_PATH(rmdir, (const char *p), p, p)
ON_PATH(unlink, (const char *p), p, p)
ON_PATH(rename, (const char *p, const char *q), p, p, q)
ON_FD(ssize_t, write, (int fd, const void *b, size_t n), fd, fd, b, n)
ON_FD(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), fd, fd, b, n, o)
ON_FD(int, ftruncate64, (int fd, off64_t n), fd, fd, n)
ON_FD(int, fsync, (int fd), fd, fd)
ON_FD(int, fdatasync, (int fd), fd, fd)

int open64(const char *p, int flags, ...) {
    REAL(open64);
    va_list a;
    va_start(a, flags);
    mode_t m = flags & (O_CREAT | O_TMPFILE) ? va_arg(a, mode_t) : 0;
    va_end(a);
    return (flags & O_CREAT) && fails(p) ? -1 : real(p, flags, m);
}

int open(const char *p, int flags, ...) {
    REAL(open);
    va_list a;
    va_start(a, flags);
    mode_t m = flags & (O_CREAT | O_TMPFILE) ? va_arg(a, mode_t) : 0;
    va_end(a);
    return (flags & O_CREAT) && fails(p) ? -1 : real(p, flags, m);
}
