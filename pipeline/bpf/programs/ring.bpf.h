/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Room for a record: reserve it, number and stamp the record, or count the loss. Nothing else reserves room, so every
 * loss is counted. The order is a law of both sets: reserve, then a full barrier, then read the time. */
#ifndef PROCLINE_RING_BPF_H
#define PROCLINE_RING_BPF_H

enum pl_room {
	PL_ROOM_NONE, /* lost and counted; nothing is reserved */
	PL_ROOM_HEADER, /* room for the header alone, which is already written */
	PL_ROOM_FULL, /* room for the whole record; the header is written, the caller writes the rest */
};

/* An object whose records are made again until one had room defines this as 1: then no header alone takes their place.
 * It would only make facts unknown that the next record contains. */
#ifndef PL_IS_MADE_AGAIN
#define PL_IS_MADE_AGAIN 0
#endif

#if defined(PL_OLD) && defined(PL_RECORD_MAX)
/* The kernel reserves constant sizes only, so a record of variable length is built here, and copied when its room is
 * reserved. PL_RECORD_MAX limits the records of an object, PL_PIECE_MAX what is written at once: the verifier wants
 * room for a piece behind the last one. One element for each CPU, as a per-CPU array would have 32 KiB at most; the
 * loader sets their number. Programs that use it do not interrupt each other. */
struct pl_flat {
	char data[PL_RECORD_MAX + PL_PIECE_MAX];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_flat);
} pl_flat_buf SEC(".maps");
#endif

/* What pl_reserve passes on to pl_submit. */
struct pl_reservation {
#ifdef PL_OLD
	struct pl_flat *flat; /* of a record of variable length */
#else
	struct bpf_dynptr data;
#endif
	void *ring;
	struct pl_cpu *cpu;
	struct pl_cpu *owner; /* of the ring */
	u32 taken;	      /* bytes in the ring, with the kernel's header */
};

/* The verifier needs the comparison: it drops the bound of a number that was on the stack in between. */
static __always_inline void pl_count_kind(u64 *counters, u32 kind)
{
	asm volatile("" : "+r"(kind));
	if (kind < PL_KIND_COUNT)
		pl_count(&counters[kind]);
}

/* Select this CPU's ring; if there is none, the loss is counted. */
static __always_inline bool pl_select_ring(struct pl_reservation *reserved, struct pl_header *header, u8 kind)
{
	u32 index = bpf_get_smp_processor_id();
	struct pl_cpu *cpu = bpf_map_lookup_elem(&pl_shared, &index);

	if (!cpu)
		return false; /* CPU number above PL_MAX_CPUS; the loader rejects such a host */
	if (pl_scope.pid_ns && !header->tgid)
		return false; /* not the current process, and it has lost its pid by now; its exit is recorded */
	header->kind = kind;
	header->cpu = index;
	reserved->cpu = cpu;
	reserved->owner = cpu;
	if (cpu->ring != index) {
		/* A CPU that came online after the start shares the spare ring with others like it. */
		index = cpu->ring;
		reserved->owner = bpf_map_lookup_elem(&pl_shared, &index);
	}
	reserved->ring = bpf_map_lookup_elem(&pl_rings, &index);
	if (!reserved->ring || !reserved->owner) {
		pl_count(&cpu->no_ring);
		pl_count_kind(cpu->lost_samples, kind);
		return false;
	}
	return true;
}

/* Number and stamp a record whose room has just been reserved, for `bytes` of it. */
static __always_inline void pl_stamp(struct pl_reservation *reserved, struct pl_header *header, u32 bytes)
{
	reserved->taken = ((bytes + 7) & ~7u) + 8;
	/* The full barrier between reservation and clock: a reader that takes the time T, fences and then reads the
	 * producer position p knows that a record at or after p was reserved after T was taken, so that its stamp is
	 * not older than T. Without it the store to the producer position can still sit in this CPU's store buffer when
	 * the clock is read. An atomic fetch with a used result is fully ordered on every architecture; a plain atomic
	 * add is not, except on x86: sets.bpf.h says what arm64 makes of both. The same barrier stands between that
	 * store and the load of `sleeping` in pl_wakeup. */
#ifdef PL_NO_FETCH
	/* If an interrupt makes a record in between, both have the same number, and different times. */
	__sync_fetch_and_add(&reserved->cpu->ring_seq, 1);
	header->ring_seq = *(volatile u64 *)&reserved->cpu->ring_seq - 1;
#else
	header->ring_seq = __sync_fetch_and_add(&reserved->cpu->ring_seq, 1);
#endif
	header->time_boot_ns = bpf_ktime_get_boot_ns();
}

/* Whether the record must wake the shard, as flags of its submission: the shard sleeps, or the ring has just filled
 * above the mark. */
static __always_inline u64 pl_wakeup(struct pl_reservation *reserved, struct pl_settings *settings)
{
	u64 wake = BPF_RB_NO_WAKEUP;
	struct pl_cpu *owner = reserved->owner;

	/* Dekker's handshake: the shard stores sleeping = 1, fences, and reads the producer position once more before
	 * it blocks; here the position was stored before the barrier in pl_stamp and the flag is loaded after it. One
	 * of the two sees the other's store. With the exchange, one record wakes the shard, not every record until it
	 * runs. */
	if (owner->sleeping && pl_clear_sleeping(owner)) {
		wake = BPF_RB_FORCE_WAKEUP;
	} else if (settings->wakeup_fill_bytes) {
		u64 unread = bpf_ringbuf_query(reserved->ring, BPF_RB_AVAIL_DATA);

		/* Only when the mark is crossed: a wake-up costs more than a record. While the shard waits for the
		 * resolver, the ring can stay above the mark for long. */
		if (unread >= settings->wakeup_fill_bytes && unread - reserved->taken < settings->wakeup_fill_bytes)
			wake = BPF_RB_FORCE_WAKEUP;
	}
	if (wake == BPF_RB_FORCE_WAKEUP)
		pl_count(&owner->wakeups);
	return wake;
}

/* Completes a record that needs its own time: called between the stamp and the copy of the record. Keep it short,
 * because the shard waits for the record meanwhile. */
typedef void pl_finish(struct pl_header *header, void *state);

static __always_inline void pl_finish_nothing(struct pl_header *header, void *state)
{
}

#ifdef PL_OLD

/* Reserve `size` bytes, a constant, and write the first `bytes` of the record there. */
static __always_inline bool pl_put(struct pl_reservation *reserved, struct pl_header *header, u32 bytes, const u32 size,
				   struct pl_settings *settings, pl_finish *finish, void *state)
{
	void *data = bpf_ringbuf_reserve(reserved->ring, size, 0);

	if (!data)
		return false;
	pl_stamp(reserved, header, size);
	finish(header, state);
	asm volatile("" : "+r"(bytes));
	if (bytes > size)
		bytes = size;
	bpf_probe_read_kernel(data, bytes, header);
	bpf_ringbuf_submit(data, pl_wakeup(reserved, settings));
	return true;
}

#ifdef PL_RECORD_MAX
#define PL_PUT(size)                                                                                                   \
	if (size <= PL_RECORD_MAX && bytes <= size)                                                                    \
	return pl_put(reserved, header, bytes, size, settings, pl_finish_nothing, NULL)

/* The same in the smallest class of sizes that has room. The reader skips what is left of it. */
static __noinline bool pl_put_in_class(struct pl_reservation *reserved, struct pl_header *header, u32 bytes,
				       struct pl_settings *settings)
{
	PL_PUT(512);
	PL_PUT(768);
	PL_PUT(1024);
	PL_PUT(1536);
	PL_PUT(2048);
	PL_PUT(3072);
	PL_PUT(4096);
	PL_PUT(6144);
	PL_PUT(8192);
	PL_PUT(16384);
	PL_PUT(32768);
	PL_PUT(65536);
	return pl_put(reserved, header, bytes, PL_RECORD_MAX, settings, pl_finish_nothing, NULL);
}
#else
/* Never called. */
bool pl_put_in_class(struct pl_reservation *reserved, struct pl_header *header, u32 bytes,
		     struct pl_settings *settings);
#endif

/* Record `bytes` that are complete in memory after `finish`, which only constant sizes have: HEADER, and behind it the
 * rest, which ends with `var_bytes` of variable length. Returns whether there was room for all of them. */
static __always_inline bool pl_send_finished(struct pl_header *header, u32 bytes, u32 var_bytes, u8 kind,
					     struct pl_settings *settings, pl_finish *finish, void *state)
{
	struct pl_reservation reserved = {};
	bool has_room;

	header->record_bytes = bytes;
	header->var_bytes = var_bytes;
	if (!pl_select_ring(&reserved, header, kind))
		return false;
	if (__builtin_constant_p(bytes))
		has_room = pl_put(&reserved, header, bytes, bytes, settings, finish, state);
	else
		has_room = pl_put_in_class(&reserved, header, bytes, settings);
	if (has_room)
		return true;
	header->record_bytes = sizeof(*header);
	header->var_bytes = 0;
	header->flags |= PL_FLAG_HEAD_ONLY;
	if (!PL_IS_MADE_AGAIN &&
	    pl_put(&reserved, header, sizeof(*header), sizeof(*header), settings, pl_finish_nothing, NULL))
		pl_count_kind(reserved.cpu->head_only, kind);
	else
		pl_count_kind(reserved.cpu->lost_samples, kind);
	return false;
}

static __always_inline bool pl_send(struct pl_header *header, u32 bytes, u32 var_bytes, u8 kind,
				    struct pl_settings *settings);

#ifdef PL_RECORD_MAX
/* Begin a record of variable length; pl_submit() reserves its room. The caller touches `reserved` with pl_write_at(),
 * pl_append() and pl_submit() only. */
static __always_inline enum pl_room pl_reserve(struct pl_reservation *reserved, struct pl_header *header, u8 kind)
{
	u32 index = bpf_get_smp_processor_id();

	reserved->flat = bpf_map_lookup_elem(&pl_flat_buf, &index);
	if (!reserved->flat)
		return PL_ROOM_NONE; /* never: there is one for each possible CPU */
	header->kind = kind;
	bpf_probe_read_kernel(reserved->flat->data, sizeof(*header), header);
	return PL_ROOM_FULL;
}

static __always_inline void pl_submit(struct pl_reservation *reserved, struct pl_settings *settings)
{
	struct pl_header *header = (struct pl_header *)reserved->flat->data;

	pl_send(header, header->record_bytes, header->var_bytes, header->kind, settings);
}

static __always_inline void pl_write_at(struct pl_reservation *reserved, u32 at, const void *from, u32 bytes)
{
	asm volatile("" : "+r"(at));
	if (at <= PL_RECORD_MAX)
		bpf_probe_read_kernel(reserved->flat->data + at, bytes, from);
}
#endif

#else

/* Reserve header->record_bytes in this CPU's ring; if there is no room, the header's bytes alone. On success *header
 * has its number and its time, and the caller writes it. Whatever the result, the caller touches reserved->data with
 * pl_write_at() and pl_submit() only, and must call pl_submit unless the result is PL_ROOM_NONE. */
static __always_inline enum pl_room pl_allocate_room(struct pl_reservation *reserved, struct pl_header *header, u8 kind)
{
	enum pl_room room = PL_ROOM_FULL;

	if (!pl_select_ring(reserved, header, kind))
		return PL_ROOM_NONE;
	if (bpf_ringbuf_reserve_dynptr(reserved->ring, header->record_bytes, 0, &reserved->data)) {
		/* The verifier requires that a failed reservation is released. */
		bpf_ringbuf_discard_dynptr(&reserved->data, BPF_RB_NO_WAKEUP);
		if (PL_IS_MADE_AGAIN) {
			pl_count_kind(reserved->cpu->lost_samples, kind);
			return PL_ROOM_NONE;
		}
		header->record_bytes = sizeof(*header);
		header->var_bytes = 0;
		header->flags |= PL_FLAG_HEAD_ONLY;
		if (bpf_ringbuf_reserve_dynptr(reserved->ring, sizeof(*header), 0, &reserved->data)) {
			bpf_ringbuf_discard_dynptr(&reserved->data, BPF_RB_NO_WAKEUP);
			pl_count_kind(reserved->cpu->lost_samples, kind);
			return PL_ROOM_NONE;
		}
		pl_count_kind(reserved->cpu->head_only, kind);
		room = PL_ROOM_HEADER;
	}
	pl_stamp(reserved, header, header->record_bytes);
	return room;
}

static __always_inline void pl_write_at(struct pl_reservation *reserved, u32 at, const void *from, u32 bytes)
{
	bpf_dynptr_write(&reserved->data, at, (void *)from, bytes, 0);
}

/* pl_allocate_room(), and write the header. */
static __always_inline enum pl_room pl_reserve(struct pl_reservation *reserved, struct pl_header *header, u8 kind)
{
	enum pl_room room = pl_allocate_room(reserved, header, kind);

	if (room != PL_ROOM_NONE)
		pl_write_at(reserved, 0, header, sizeof(*header));
	return room;
}

/* Make the record visible. */
static __always_inline void pl_submit(struct pl_reservation *reserved, struct pl_settings *settings)
{
	bpf_ringbuf_submit_dynptr(&reserved->data, pl_wakeup(reserved, settings));
}

/* Record `bytes` that are complete in memory after `finish`: HEADER, and behind it the rest, which ends with
 * `var_bytes` of variable length. Returns whether there was room for all of them. */
static __always_inline bool pl_send_finished(struct pl_header *header, u32 bytes, u32 var_bytes, u8 kind,
					     struct pl_settings *settings, pl_finish *finish, void *state)
{
	struct pl_reservation reserved;
	enum pl_room room;

	header->record_bytes = bytes;
	header->var_bytes = var_bytes;
	room = pl_allocate_room(&reserved, header, kind);
	if (room == PL_ROOM_NONE)
		return false;
	if (room == PL_ROOM_FULL)
		finish(header, state);
	/* All in one write: a call costs as much as a cache line. */
	pl_write_at(&reserved, 0, header, room == PL_ROOM_FULL ? bytes : sizeof(*header));
	pl_submit(&reserved, settings);
	return room == PL_ROOM_FULL;
}

#endif

/* The same for a record that is complete already. */
static __always_inline bool pl_send(struct pl_header *header, u32 bytes, u32 var_bytes, u8 kind,
				    struct pl_settings *settings)
{
	return pl_send_finished(header, bytes, var_bytes, kind, settings, pl_finish_nothing, NULL);
}

#if !defined(PL_OLD) || defined(PL_RECORD_MAX)
/* Append a part of variable length to a reserved record; nothing if it is longer than `limit`. */
static __always_inline void pl_append(struct pl_reservation *reserved, u32 at, const void *from, u32 bytes, u32 limit)
{
	/* Two checks: clang would combine them to one of bytes - 1, from which the verifier of Linux 6.12 derives no
	 * bound of bytes. */
	if (!bytes)
		return;
	asm volatile("" : "+r"(bytes));
	if (bytes <= limit)
		pl_write_at(reserved, at, from, bytes);
}
#endif

#endif
