/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a process has used when it ends. docs/cost.md compares these numbers with those of wait4() and /proc. */
#ifndef PROCLINE_COST_BPF_H
#define PROCLINE_COST_BPF_H

/* At most this many threads are added up: those that have ended and that the kernel has not released yet. */
#define PL_COST_THREADS 4096
/* How often the sums are made again because a thread was released in between. */
#ifdef PL_OLD
#define PL_COST_TRIES 4
#else
#define PL_COST_TRIES 16
#endif
/* A clock difference that was measured longer ago is not used: the two clocks drift apart. */
#define PL_CLOCK_AGE_NS 1000000000ull

/* The difference between the scheduler's clock and bpf_ktime_get_boot_ns(), as of the first new thread on the host in a
 * tick. All CPUs read it, so each store costs each of them a cache line; in a tick the clocks drift apart by a few us
 * at most. */
struct pl_clock {
	u64 offset;
	u64 time; /* bpf_ktime_get_boot_ns() when it was measured; 0: never */
	u64 tick; /* bpf_jiffies64() then */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_clock);
} pl_clock_map SEC(".maps");

struct pl_sums {
	u64 user;
	u64 system;
	u64 run;
	u64 minor_faults;
	u64 major_faults;
	u64 voluntary;
	u64 involuntary;
	u64 read;
	u64 written;
};

static __always_inline void pl_add_thread(struct pl_sums *sums, const struct task_struct *task, const bool is_typed)
{
	sums->user += PL_FOLLOW(is_typed, task, utime);
	sums->system += PL_FOLLOW(is_typed, task, stime);
	sums->run += PL_FOLLOW(is_typed, task, se.sum_exec_runtime);
	sums->minor_faults += PL_FOLLOW(is_typed, task, min_flt);
	sums->major_faults += PL_FOLLOW(is_typed, task, maj_flt);
	sums->voluntary += PL_FOLLOW(is_typed, task, nvcsw);
	sums->involuntary += PL_FOLLOW(is_typed, task, nivcsw);
	if (bpf_core_field_exists(task->ioac.read_bytes)) {
		sums->read += PL_FOLLOW(is_typed, task, ioac.read_bytes);
		sums->written += PL_FOLLOW(is_typed, task, ioac.write_bytes);
	}
}

/* The sums of the threads that have been released. */
static __always_inline void pl_add_released(struct pl_sums *sums, const struct signal_struct *signal)
{
	sums->user = signal->utime;
	sums->system = signal->stime;
	sums->run = signal->sum_sched_runtime;
	sums->minor_faults = signal->min_flt;
	sums->major_faults = signal->maj_flt;
	sums->voluntary = signal->nvcsw;
	sums->involuntary = signal->nivcsw;
	/* Not ioac, to which wait_task_zombie() adds what children read and wrote: a sum over processes would count it
	 * twice. */
	sums->read = (u64)signal->inblock << 9;
	sums->written = (u64)signal->oublock << 9;
}

struct pl_threads {
	struct pl_sums sums;
	const void *node; /* list_head of the next thread */
	const void *end;
};

PL_STEP(pl_add_next_thread, pl_threads)
{
	const struct task_struct *task;

	if (state->node == state->end)
		return 1;
	task = PL_AS(struct task_struct, state->node - bpf_core_field_offset(struct task_struct, thread_node));
	pl_add_thread(&state->sums, task, PL_UNTYPED);
	state->node = PL_GET(task, thread_node.next);
	return 0;
}

/* Read anew at each call. */
static __always_inline u32 pl_stats_sequence(const struct signal_struct *signal)
{
#ifdef PL_OLD
	return PL_GET(signal, stats_lock.seqcount.seqcount.sequence);
#else
	return *(volatile u32 *)&signal->stats_lock.seqcount.seqcount.sequence;
#endif
}

/* Sum up all threads. Returns false if threads were released all the time, or are too many. */
static __always_inline bool pl_sum_threads(struct pl_threads *threads, struct task_struct *task,
					   struct signal_struct *signal)
{
	u64 word = 0;

	/* All others are released: this is the common case, and nothing can change. */
	if (signal->nr_threads == 1) {
		pl_add_released(&threads->sums, signal);
		pl_add_thread(&threads->sums, task, PL_TYPED);
		return true;
	}
	__builtin_memset(threads, 0, sizeof(*threads));
	/* The kernel moves the numbers of a thread that it releases under this sequence lock. The numbers must be read
	 * between the two reads of the sequence, on aarch64 too. */
	for (int i = 0; i < PL_COST_TRIES; i++) {
		u32 sequence = pl_stats_sequence(signal);

		if (sequence & 1)
			continue;
		pl_full_barrier(&word);
		pl_add_released(&threads->sums, signal);
		threads->end = &signal->thread_head;
		threads->node = PL_GET(signal, thread_head.next);
		PL_LOOP(PL_COST_THREADS, pl_add_next_thread, 0, threads);
		pl_full_barrier(&word);
		if (threads->node == threads->end &&
		    pl_stats_sequence(signal) == sequence)
			return true;
	}
	return false;
}

struct pl_division {
	u64 factor;
	u64 factor_bits; /* of the other factor, those that follow from the highest on */
	u64 divisor;
	u64 quotient;
	u64 rest;
};

/* All ones if a >= b, else 0: by the borrow of a - b, without a branch, which the verifier of the older set would
 * follow at every step. */
static __always_inline u64 pl_reaches(u64 a, u64 b)
{
	u64 borrow = ((~a & b) | ((~a | b) & (a - b))) >> 63;

	asm volatile("" : "+r"(borrow));
	return borrow - 1;
}

PL_STEP(pl_divide_bit, pl_division)
{
	u64 quotient = state->quotient << 1, rest = state->rest << 1, fits;

	fits = pl_reaches(rest, state->divisor);
	rest -= state->divisor & fits;
	quotient += fits & 1;
	rest += state->factor & -(state->factor_bits >> 63);
	fits = pl_reaches(rest, state->divisor);
	rest -= state->divisor & fits;
	quotient += fits & 1;
	state->factor_bits <<= 1;
	state->quotient = quotient;
	state->rest = rest;
	return 0;
}

/* a * b / c, rounded down, with a product of 128 bits; a <= c < 2^63. */
static __always_inline u64 pl_mul_div(u64 a, u64 b, u64 c)
{
	struct pl_division division = { .factor = a, .factor_bits = b, .divisor = c };

	if (!((a | b) >> 32))
		return a * b / c;
	PL_LOOP(64, pl_divide_bit, 0, &division);
	return division.quotient;
}

/* Split the run time in user and system time as cputime_adjust() of kernel/sched/cputime.c does it: the scheduler
 * measures the run time, and the ticks of the clock, which hit one or the other, only say how it is divided. */
static __always_inline void pl_split_time(struct pl_cost *out, const struct pl_sums *sums,
					  const struct signal_struct *signal)
{
	u64 user = sums->user, system = sums->system, run = sums->run, user_before, system_before;

	if (!bpf_core_field_exists(signal->prev_cputime.utime)) {
		/* CONFIG_VIRT_CPU_ACCOUNTING_NATIVE, with an empty struct: both are measured. */
		out->cpu_user_ns = user;
		out->cpu_system_ns = system;
		return;
	}
	user_before = signal->prev_cputime.utime;
	system_before = signal->prev_cputime.stime;
	if (user_before + system_before >= run) {
		out->cpu_user_ns = user_before;
		out->cpu_system_ns = system_before;
		return;
	}
	if (!system)
		system = 0;
	else if (!user)
		system = run;
	else
		system = pl_mul_div(system, run, system + user);
	/* What was once reported never falls. */
	if (system < system_before)
		system = system_before;
	user = run - system;
	if (user < user_before) {
		user = user_before;
		system = run - user;
	}
	out->cpu_user_ns = user;
	out->cpu_system_ns = system;
}

/* The queue that a task runs in. */
static __always_inline const struct rq *pl_queue_of(const struct task_struct *task)
{
	if (!bpf_core_field_exists(task->se.cfs_rq) || !bpf_core_field_exists(struct cfs_rq, rq))
		return NULL;
	return task->se.cfs_rq->rq;
}

/* How long the current task has run at the time `now` since the scheduler last added to its run time: up to one tick,
 * which is more than most commands run. The scheduler's clock cannot be read here, but its difference to a clock that
 * can. */
static __always_inline u64 pl_running_time(const struct task_struct *task, u64 now)
{
	const struct rq *queue = pl_queue_of(task);
	u32 zero = 0;
	const struct pl_clock *clock = bpf_map_lookup_elem(&pl_clock_map, &zero);
	u64 queue_time, since;

	if (!queue || !clock)
		return 0;
	queue_time = queue->clock;
	if (clock->time && now - clock->time < PL_CLOCK_AGE_NS && now + clock->offset > queue_time)
		now += clock->offset;
	else
		now = queue_time;
	/* The clock of tasks leaves out the time of interrupts and that which a hypervisor gave to others. */
	since = now - (queue_time - queue->clock_task) - task->se.exec_start;
	return since < PL_CLOCK_AGE_NS ? since : 0;
}

static __always_inline u32 pl_limit32(u64 value)
{
	return value < 0xffffffff ? value : 0xffffffff;
}

/* Fill COST for the last thread of a process, except for its own CPU time: pl_finish_cost() does that. Returns the
 * EXIT_* that apply. */
static __always_inline u32 pl_fill_cost(struct pl_cost *out, struct pl_threads *threads, struct task_struct *task,
					struct signal_struct *signal, const struct pl_settings *settings)
{
	if (!pl_sum_threads(threads, task, signal))
		return 0;
	out->children_cpu_ns = signal->cutime + signal->cstime;
	out->max_rss_bytes = signal->maxrss * settings->page_bytes;
	out->read_bytes = threads->sums.read;
	out->write_bytes = threads->sums.written;
	out->minor_faults = pl_limit32(threads->sums.minor_faults);
	out->major_faults = pl_limit32(threads->sums.major_faults);
	out->voluntary_switches = pl_limit32(threads->sums.voluntary);
	out->involuntary_switches = pl_limit32(threads->sums.involuntary);
	return PL_EXIT_COST | (bpf_core_field_exists(task->ioac.read_bytes) ? PL_EXIT_IO : 0);
}

/* Fill the CPU time of COST, as of `now`. */
static __always_inline void pl_finish_cost(struct pl_cost *out, struct pl_sums *sums, struct task_struct *task,
					   struct signal_struct *signal, u64 now)
{
	sums->run += pl_running_time(task, now);
	pl_split_time(out, sums, signal);
}

#endif
