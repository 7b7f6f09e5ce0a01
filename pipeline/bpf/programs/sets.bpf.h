/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The two sets of objects that are compiled from this source, and what they do differently.
 *
 * The newer set needs typed views of kernel memory (bpf_rdonly_cast), callbacks (bpf_loop), reservations of any size
 * (dynptrs) and atomic operations that return a value. The older set (PL_OLD) is for kernels that lack one of them: it
 * reads kernel memory by helpers, makes steps in global functions, and reserves constant sizes (ring.bpf.h).
 * probe.bpf.c has the tests that decide; see features.py.
 *
 * The older set is compiled twice. For x86-64 (PL_NO_FETCH) it has no atomic operation that returns a value, so it
 * works from Linux 5.10 on: spin locks are in the place of exchanges (maps.bpf.h), and the barrier of ring.bpf.h is an
 * atomic addition, which is a full barrier there (`lock add`). For aarch64 it has these operations, like the newer set.
 * The kernel's memory model makes each of them a full barrier. The JIT of arm64 knows them since Linux 5.18
 * (arch/arm64/net/bpf_jit_comp.c). It makes one instruction with acquire and release (LDADDAL, SWPAL, CASAL), or for
 * processors without these a loop of LDXR and STLXR with DMB ISH behind it. An addition whose result is not used
 * becomes STADD or a loop without barriers, which orders nothing. */
#ifndef PROCLINE_SETS_BPF_H
#define PROCLINE_SETS_BPF_H

/* A full barrier: an atomic operation on a word that nothing else needs. */
#ifdef PL_NO_FETCH
#define pl_full_barrier(word) ((void)__sync_fetch_and_add(word, 1))
#else
#define pl_full_barrier(word)                                                                                          \
	do {                                                                                                           \
		u64 pl_before = __sync_fetch_and_add(word, 1);                                                         \
                                                                                                                       \
		asm volatile("" : : "r"(pl_before));                                                                   \
	} while (0)
#endif

/* Values of `is_typed`, which is a constant everywhere. */
#define PL_TYPED true
#define PL_UNTYPED false

#ifdef PL_OLD

/* Fields of kernel memory, along pointers: PL_GET(task, mm, exe_file) is task->mm->exe_file; 0 if an address is bad. A
 * task that is not an argument of the program is only an address on these kernels, so every field is read by a
 * helper. */
#define PL_GET(...) BPF_CORE_READ(__VA_ARGS__)
/* The same, but without a helper if `is_typed` is PL_TYPED: the verifier knows the type of the first pointer, which is
 * an argument of the program or was loaded from one. A helper takes some 20 ns, and a record of a process needs 60
 * fields. In both sets a program can also write task->pid of its argument. */
#define PL_FOLLOW(is_typed, ...) ((is_typed) ? ___arrow(__VA_ARGS__) : PL_GET(__VA_ARGS__))
/* Whether only the fields of its own type can be loaded from a pointer, each alone. The newer set can cast it. */
#define PL_BY_TYPE(is_typed) (is_typed)
/* The address in a pointer. The verifier adds no variable to a pointer of known type, and takes what has been negated
 * for a number. */
#define PL_ADDRESS(pointer)                                                                                            \
	({                                                                                                             \
		u64 pl_address = (u64)(pointer);                                                                       \
                                                                                                                       \
		asm volatile("%0 = -%0; %0 = -%0" : "+r"(pl_address));                                                 \
		pl_address;                                                                                            \
	})
#define PL_GET_BITS(at, field) BPF_CORE_READ_BITFIELD_PROBED(at, field)
/* An address as a pointer to kernel memory. */
#define PL_AS(type, address) ((type *)(address))
/* The current task: Linux 5.10 has no typed one. */
#define pl_current() ((struct task_struct *)bpf_get_current_task())

/* There are no such functions on these kernels. */
#define pl_disable_preemption()
#define pl_enable_preemption()

/* What a step needs besides its state is looked up, as a global function has no pointers; in the newer set it is a
 * pointer in the state. */
#define PL_HELD(pointer, look_up) (look_up)
#define PL_IS_MISSING(pointer) (!(pointer))
/* The address of a field of a map's element, or NULL. The verifier rejects an addition before the check for NULL, to
 * which clang would move it. */
#define PL_PART(element, field)                                                                                        \
	({                                                                                                             \
		typeof(element) pl_there = element;                                                                    \
                                                                                                                       \
		if (pl_there)                                                                                          \
			asm volatile("" : "+r"(pl_there));                                                             \
		pl_there ? &pl_there->field : NULL;                                                                    \
	})

/* A step of a loop: PL_STEP(name, state) { ... } returns 1 to end it. The verifier verifies a global function once, and
 * assumes only that it returns a number; so neither what a step does nor how often it runs multiplies with the rest of
 * the program. The state is in a map: an element for each program of the object, as one may interrupt another. */
#define PL_PROGRAMS_MAX 8
#define PL_TIMES_EACH 64
#define PL_STEP(name, state_type)                                                                                      \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                               \
		__uint(max_entries, PL_PROGRAMS_MAX);                                                                  \
		__type(key, u32);                                                                                      \
		__type(value, struct state_type);                                                                      \
	} name##_states SEC(".maps");                                                                                  \
	static __always_inline long name##_body(struct state_type *state);                                             \
	__attribute__((noinline)) long name(u32 number)                                                                \
	{                                                                                                              \
		struct state_type *state = bpf_map_lookup_elem(&name##_states, &number);                               \
                                                                                                                       \
		return state ? name##_body(state) : 1;                                                                 \
	}                                                                                                              \
	/* In two levels: the verifier limits the branches that wait. */                                               \
	__attribute__((noinline)) long name##_each(u32 number)                                                         \
	{                                                                                                              \
		for (u32 i = 0; i < PL_TIMES_EACH; i++)                                                                \
			if (name(number))                                                                              \
				return 1;                                                                              \
		return 0;                                                                                              \
	}                                                                                                              \
	static __always_inline long name##_body(struct state_type *state)
/* Steps that are few and simple: the verifier follows each of them, and the state is on the stack. */
#define PL_SHORT_STEP(name, state_type) static __always_inline long name(struct state_type *state)
#define PL_SHORT_LOOP(times, name, state)                                                                              \
	do {                                                                                                           \
		for (u32 pl_i = 0; pl_i < (times); pl_i++)                                                             \
			if (name(state))                                                                               \
				break;                                                                                 \
	} while (0)
/* Make up to `times` steps, a multiple of PL_TIMES_EACH. Numbers differ in one object from program to program. */
#define PL_LOOP(times, name, number, state)                                                                            \
	do {                                                                                                           \
		u32 pl_at = number;                                                                                    \
		typeof(state) pl_kept = bpf_map_lookup_elem(&name##_states, &pl_at);                                   \
                                                                                                                       \
		_Static_assert((times) % PL_TIMES_EACH == 0, "times");                                                 \
		if (pl_kept) {                                                                                         \
			*pl_kept = *(state);                                                                           \
			for (u32 pl_i = 0; pl_i < (times) / PL_TIMES_EACH; pl_i++)                                     \
				if (name##_each(number))                                                               \
					break;                                                                         \
			*(state) = *pl_kept;                                                                           \
		}                                                                                                      \
	} while (0)

#else

#define PL_GET(...) ___arrow(__VA_ARGS__)
#define PL_FOLLOW(is_typed, ...) ___arrow(__VA_ARGS__)
#define PL_BY_TYPE(is_typed) false
#define PL_ADDRESS(pointer) (pointer)
#define PL_GET_BITS(at, field) BPF_CORE_READ_BITFIELD(at, field)
#define PL_AS(type, address) ((type *)bpf_rdonly_cast(address, bpf_core_type_id_kernel(type)))
#define pl_current() ((struct task_struct *)bpf_get_current_task_btf())
#define PL_HELD(pointer, look_up) (pointer)
#define PL_IS_MISSING(pointer) 0
#define PL_STEP(name, state_type) static long name(u64 i, struct state_type *state)
#define PL_LOOP(times, name, number, state) bpf_loop(times, name, state, 0)
#define PL_SHORT_STEP(name, state_type) static long name(u64 i, struct state_type *state)
#define PL_SHORT_LOOP(times, name, state) bpf_loop(times, name, state, 0)
#define pl_disable_preemption()                                                                                        \
	do {                                                                                                           \
		if (bpf_ksym_exists(bpf_preempt_disable))                                                              \
			bpf_preempt_disable();                                                                         \
	} while (0)
#define pl_enable_preemption()                                                                                         \
	do {                                                                                                           \
		if (bpf_ksym_exists(bpf_preempt_enable))                                                               \
			bpf_preempt_enable();                                                                          \
	} while (0)

#endif

/* A task as an address that may be bad. Programs and branches that rarely run use it, because they load in a fraction
 * of the time: for a pointer in a task that the kernel vouches for, the verifier searches all types of the kernel by
 * name, up to four times on each path through the program. What runs at every event does not: each load is then 45
 * bytes of machine code with a check of the address, and with ten of them the fork program takes 5 % longer. */
#define pl_any_task(task) PL_AS(struct task_struct, task)

#endif
