/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Room for a record: reserve it, number and stamp the record, or count the loss. Nothing else reserves room, so every
 * loss is counted. */
#ifndef PROCLINE_RING_BPF_H
#define PROCLINE_RING_BPF_H

enum pl_room {
	PL_ROOM_NONE, /* lost and counted; the dynptr is released */
	PL_ROOM_HEAD, /* room for the header alone, which is already written */
	PL_ROOM_FULL, /* room for the whole record; the header is written, the caller writes the rest */
};

/* What pl_reserve passes on to pl_submit. */
struct pl_slot {
	struct bpf_dynptr data;
	void *ring;
	struct pl_cpu *owner;
	u32 taken; /* bytes in the ring, with the kernel's header */
};

/* The verifier needs the comparison: it drops the bound of a number that was on the stack in between. */
static __always_inline void pl_count_kind(u64 *counters, u32 kind)
{
	asm volatile("" : "+r"(kind));
	if (kind < PL_KIND_COUNT)
		pl_count(&counters[kind]);
}

/* Reserve head->record_bytes in this CPU's ring; if there is no room, the header's bytes alone. On success *head has its
 * number and its time, and the caller writes it. Whatever the result, the caller touches slot->data with
 * bpf_dynptr_write() and pl_submit() only, and must call pl_submit unless the result is PL_ROOM_NONE. */
static __always_inline enum pl_room pl_take_room(struct pl_slot *slot, struct pl_head *head, u8 kind)
{
	u32 index = bpf_get_smp_processor_id();
	struct pl_cpu *cpu = bpf_map_lookup_elem(&pl_shared, &index);
	enum pl_room room = PL_ROOM_FULL;

	if (!cpu)
		return PL_ROOM_NONE; /* CPU number above PL_MAX_CPUS; the loader rejects such a host */
	if (pl_scope.pid_ns && !head->tgid)
		return PL_ROOM_NONE; /* not the current process, and it has lost its pid by now; its exit is recorded */
	head->kind = kind;
	head->cpu = index;
	slot->owner = cpu;
	if (cpu->ring != index) {
		/* A CPU that came online after the start shares the spare ring with others like it. */
		index = cpu->ring;
		slot->owner = bpf_map_lookup_elem(&pl_shared, &index);
	}
	slot->ring = bpf_map_lookup_elem(&pl_rings, &index);
	if (!slot->ring || !slot->owner) {
		pl_count(&cpu->no_ring);
		pl_count_kind(cpu->lost_samples, kind);
		return PL_ROOM_NONE;
	}
	if (bpf_ringbuf_reserve_dynptr(slot->ring, head->record_bytes, 0, &slot->data)) {
		/* The verifier requires that a failed reservation is released. */
		bpf_ringbuf_discard_dynptr(&slot->data, BPF_RB_NO_WAKEUP);
		head->record_bytes = sizeof(*head);
		head->var_bytes = 0;
		head->flags |= PL_FLAG_HEAD_ONLY;
		if (bpf_ringbuf_reserve_dynptr(slot->ring, sizeof(*head), 0, &slot->data)) {
			bpf_ringbuf_discard_dynptr(&slot->data, BPF_RB_NO_WAKEUP);
			pl_count_kind(cpu->lost_samples, kind);
			return PL_ROOM_NONE;
		}
		pl_count_kind(cpu->head_only, kind);
		room = PL_ROOM_HEAD;
	}
	slot->taken = ((head->record_bytes + 7) & ~7u) + 8;
	/* The full barrier between reservation and clock: a reader that takes the time T, fences and then reads the
	 * producer position p knows that a record at or after p was reserved after T was taken, so that its stamp is
	 * not older than T. Without it the store to the producer position can still sit in this CPU's store buffer when
	 * the clock is read. An atomic fetch with a used result is fully ordered on every architecture; a plain atomic add
	 * is not. The same barrier stands between that store and the load of `sleeping` in pl_submit. */
	head->ring_seq = __sync_fetch_and_add(&cpu->ring_seq, 1);
	head->time_boot_ns = bpf_ktime_get_boot_ns();
	return room;
}

/* pl_take_room(), and write the header. */
static __always_inline enum pl_room pl_reserve(struct pl_slot *slot, struct pl_head *head, u8 kind)
{
	enum pl_room room = pl_take_room(slot, head, kind);

	if (room != PL_ROOM_NONE)
		bpf_dynptr_write(&slot->data, 0, head, sizeof(*head), 0);
	return room;
}

/* Make the record visible, and wake the shard if it sleeps or the ring has just filled above the mark. */
static __always_inline void pl_submit(struct pl_slot *slot, struct pl_settings *settings)
{
	u64 wake = BPF_RB_NO_WAKEUP;
	struct pl_cpu *owner = slot->owner;

	/* Dekker's handshake: the shard stores sleeping = 1, fences, and reads the producer position once more before
	 * it blocks; here the position was stored before the barrier in pl_reserve and the flag is loaded after it. One
	 * of the two sees the other's store. With the exchange, one record wakes the shard, not every record until it
	 * runs. */
	if (owner->sleeping && __sync_lock_test_and_set(&owner->sleeping, 0)) {
		wake = BPF_RB_FORCE_WAKEUP;
	} else if (settings->wakeup_fill_bytes) {
		u64 unread = bpf_ringbuf_query(slot->ring, BPF_RB_AVAIL_DATA);

		/* Only when the mark is crossed: a wake-up costs more than a record. While the shard waits for the
		 * resolver, the ring can stay above the mark for long. */
		if (unread >= settings->wakeup_fill_bytes && unread - slot->taken < settings->wakeup_fill_bytes)
			wake = BPF_RB_FORCE_WAKEUP;
	}
	if (wake == BPF_RB_FORCE_WAKEUP)
		pl_count(&owner->wakeups);
	bpf_ringbuf_submit_dynptr(&slot->data, wake);
}

/* Record `bytes` that are complete in memory: HEAD, and behind it the rest, which ends with `var_bytes` of variable
 * length. Returns whether there was room for all of them. */
static __always_inline bool pl_send(struct pl_head *head, u32 bytes, u32 var_bytes, u8 kind,
				    struct pl_settings *settings)
{
	struct pl_slot slot;
	enum pl_room room;

	head->record_bytes = bytes;
	head->var_bytes = var_bytes;
	room = pl_take_room(&slot, head, kind);
	if (room == PL_ROOM_NONE)
		return false;
	/* All in one write: a call costs as much as a cache line. */
	bpf_dynptr_write(&slot.data, 0, head, room == PL_ROOM_FULL ? bytes : sizeof(*head), 0);
	pl_submit(&slot, settings);
	return room == PL_ROOM_FULL;
}

/* Append a part of variable length to a reserved record; nothing if it is longer than `limit`. */
static __always_inline void pl_append(struct pl_slot *slot, u32 at, const void *from, u32 bytes, u32 limit)
{
	/* Two checks: clang would combine them to one of bytes - 1, from which the verifier of Linux 6.12 derives no
	 * bound of bytes. */
	if (!bytes)
		return;
	asm volatile("" : "+r"(bytes));
	if (bytes <= limit)
		bpf_dynptr_write(&slot->data, at, (void *)from, bytes, 0);
}

#endif
