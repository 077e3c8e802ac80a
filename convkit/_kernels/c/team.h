/* Worker threads that all callers share.

   A call that may use n threads takes up to n - 1 workers that are idle, or makes more as
   long as there are fewer than n - 1; the calling thread works too. So many callers at a time
   share the workers instead of having a team each, and there are never more of them than the
   largest call asked for.

   Each thread begins with its own share of neighbouring tasks, the same in every call, so that it
   finds in its cache what it wrote in the call before; then it takes tasks, one by one, from the
   others' shares. A caller that has run out of tasks takes back every worker that
   has not begun: it never waits for a thread that the system has not woken yet, only for tasks
   that are being done.

   Idle workers watch for work for a while, then sleep. They do not survive fork(): a child
   makes new ones. */
#ifndef CK_TEAM_H
#define CK_TEAM_H

#include <stddef.h>

#include "fpstate.h"

typedef void (*ck_task_fn)(void *ctx, ptrdiff_t index, int slot);

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define CK_HAVE_THREADS 1

enum {
    CK_MOST_WORKERS = 1023,
    CK_IDLE_NANOSECONDS = 150000, /* for which idle workers watch for work */
    CK_SPIN_NANOSECONDS = 8000,   /* for which they, and waiting callers, let no other thread run */
    CK_FEW = 16,                  /* threads for which a job needs no memory of its own */
    CK_LOOKS = 16,                /* between two looks at the clock */
};

/* Some of the tasks, on a cache line of its own. */
typedef struct ck_share_of_tasks {
    atomic_ptrdiff_t next; /* to be done */
    ptrdiff_t end;
    char apart[64 - 2 * sizeof(ptrdiff_t)];
} ck_share_of_tasks;

typedef struct ck_job {
    ck_task_fn fn;
    void *ctx;
    ck_share_of_tasks *shares;
    int parts;
    atomic_int left; /* workers that are not done with this job */
} ck_job;

typedef struct ck_worker {
    struct ck_worker *below; /* in the stack of idle workers */
    _Atomic(ck_job *) job;   /* to be begun; NULL before and after */
    int slot;
    atomic_int asleep;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} ck_worker;

static struct {
    atomic_flag busy;
    ck_worker *idle;
    int made;
} ck_team = {.busy = ATOMIC_FLAG_INIT};

static inline void ck_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline long long ck_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void ck_team_lock(void) {
    while (atomic_flag_test_and_set_explicit(&ck_team.busy, memory_order_acquire)) sched_yield();
}

static inline void ck_team_unlock(void) {
    atomic_flag_clear_explicit(&ck_team.busy, memory_order_release);
}

static void ck_put_back(ck_worker *worker) {
    ck_team_lock();
    worker->below = ck_team.idle;
    ck_team.idle = worker;
    ck_team_unlock();
}

static void ck_run_tasks(ck_job *job, int slot) {
    const unsigned before = ck_fp_enter();
    for (int k = 0; k < job->parts; k++) {
        ck_share_of_tasks *share = &job->shares[(slot + k) % job->parts];
        ptrdiff_t i;
        while ((i = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end)
            job->fn(job->ctx, i, slot);
    }
    ck_fp_leave(before);
}

/* Pauses in a wait that began at `start`, between two looks; returns for how long it has lasted. Most
   waits are short, and yielding makes their end half a microsecond late; in a longer one a thread
   that has work to do, of another process maybe, gets the core. */
static long long ck_pause_since(long long start) {
    const long long waited = ck_nanoseconds() - start;
    if (waited > CK_SPIN_NANOSECONDS) sched_yield();
    return waited;
}

/* Waits until there is a job: awake for a while, then asleep. */
static ck_job *ck_await_job(ck_worker *worker) {
    ck_job *job;
    const long long start = ck_nanoseconds();
    do {
        for (int i = 0; i < CK_LOOKS; i++) {
            job = atomic_load_explicit(&worker->job, memory_order_acquire);
            if (job) return job;
            ck_pause();
        }
    } while (ck_pause_since(start) < CK_IDLE_NANOSECONDS);
    pthread_mutex_lock(&worker->lock);
    atomic_store(&worker->asleep, 1);
    while (!(job = atomic_load(&worker->job))) pthread_cond_wait(&worker->wake, &worker->lock);
    atomic_store(&worker->asleep, 0);
    pthread_mutex_unlock(&worker->lock);
    return job;
}

static void *ck_worker_main(void *self) {
    ck_worker *worker = self;
    for (;;) {
        ck_job *job = ck_await_job(worker);
        /* The caller may have taken the job back meanwhile. */
        if (!atomic_compare_exchange_strong(&worker->job, &job, NULL)) continue;
        ck_run_tasks(job, worker->slot);
        ck_put_back(worker);
        atomic_fetch_sub_explicit(&job->left, 1, memory_order_release);
    }
    return NULL;
}

/* Bytes of a worker's stack: kernels hold up to 150 KB on theirs, more than musl gives a thread. */
enum { CK_WORKER_STACK = 2 << 20 };

/* Returns a new worker that runs already, or NULL. */
static ck_worker *ck_new_worker(void) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    ck_worker *worker = calloc(1, sizeof *worker);
    if (!worker) return NULL;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->wake, NULL);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, CK_WORKER_STACK);
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, ck_worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) {
        free(worker);
        return NULL;
    }
    return worker;
}

/* Gives the job to up to `wanted` workers, listed in `workers`; returns to how many. */
static int ck_hire(ck_job *job, ck_worker **workers, int wanted) {
    int found = 0, fresh = 0;
    if (wanted > CK_MOST_WORKERS) wanted = CK_MOST_WORKERS;
    ck_team_lock();
    while (found < wanted && ck_team.idle) {
        workers[found++] = ck_team.idle;
        ck_team.idle = ck_team.idle->below;
    }
    while (found + fresh < wanted && ck_team.made < wanted) {
        ck_team.made++;
        fresh++;
    }
    ck_team_unlock();
    for (; fresh > 0; fresh--) {
        ck_worker *worker = ck_new_worker();
        if (worker) {
            workers[found++] = worker;
        } else {
            ck_team_lock();
            ck_team.made--;
            ck_team_unlock();
        }
    }
    atomic_init(&job->left, found);
    for (int i = 0; i < found; i++) {
        workers[i]->slot = i + 1;
        atomic_store(&workers[i]->job, job);
        if (atomic_load(&workers[i]->asleep)) {
            pthread_mutex_lock(&workers[i]->lock);
            pthread_cond_signal(&workers[i]->wake);
            pthread_mutex_unlock(&workers[i]->lock);
        }
    }
    return found;
}

/* Takes the job back from workers that have not begun, and waits for the others. */
static void ck_finish(ck_job *job, ck_worker **workers, int count) {
    for (int i = 0; i < count; i++) {
        ck_job *expected = job;
        if (atomic_compare_exchange_strong(&workers[i]->job, &expected, NULL)) {
            ck_put_back(workers[i]);
            atomic_fetch_sub_explicit(&job->left, 1, memory_order_relaxed);
        }
    }
    if (!atomic_load_explicit(&job->left, memory_order_acquire)) return;
    const long long start = ck_nanoseconds();
    for (int i = 1; atomic_load_explicit(&job->left, memory_order_acquire); i++) {
        ck_pause();
        if (i % CK_LOOKS == 0) ck_pause_since(start);
    }
}

static void ck_share(ck_task_fn fn, void *ctx, ptrdiff_t count, int threads) {
    ck_worker *few[CK_FEW], **workers = few;
    ck_share_of_tasks few_shares[CK_FEW], *shares = few_shares;
    if (threads > CK_FEW) {
        workers = malloc((size_t)threads * sizeof *workers);
        shares = malloc((size_t)threads * sizeof *shares);
    }
    if (!workers || !shares) threads = 1;
    ck_job job = {.fn = fn, .ctx = ctx, .shares = shares ? shares : few_shares, .parts = threads};
    for (int i = 0; i < threads; i++) {
        atomic_init(&job.shares[i].next, count * i / threads);
        job.shares[i].end = count * (i + 1) / threads;
    }
    atomic_init(&job.left, 0);
    const int found = threads > 1 ? ck_hire(&job, workers, threads - 1) : 0;
    ck_run_tasks(&job, 0);
    ck_finish(&job, workers, found);
    if (workers != few) free(workers);
    if (shares != few_shares) free(shares);
}

static int ck_is_child;

static void ck_forget_workers(void) {
    ck_is_child = 1;
    atomic_flag_clear(&ck_team.busy);
    ck_team.idle = NULL;
    ck_team.made = 0;
}

static inline void ck_watch_fork(void) { pthread_atfork(NULL, NULL, ck_forget_workers); }
static inline int ck_forked(void) { return ck_is_child; }

#else
#define CK_HAVE_THREADS 0

static inline void ck_share(ck_task_fn fn, void *ctx, ptrdiff_t count, int threads) {
    const unsigned before = ck_fp_enter();
    (void)threads;
    for (ptrdiff_t i = 0; i < count; i++) fn(ctx, i, 0);
    ck_fp_leave(before);
}

static inline void ck_watch_fork(void) {}
static inline int ck_forked(void) { return 0; }
#endif

#endif
