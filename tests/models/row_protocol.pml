/* The row protocol: one writer, a reader, the index, two rows and three strings, under weak memory.
 *
 * docs/row-protocol.md has the proved properties. Run: spin -a row_protocol.pml && gcc -O2 -o pan pan.c && ./pan
 * Each mutation (-D NAME for spin) removes one part of the protocol; the test expects each of them to fail.
 *
 * Memory. The writer's stores go into a buffer and come out in any order, except: stores to one place keep their
 * order; a release store comes out after all earlier stores; a fence waits until the buffer is empty
 * (a release fence orders earlier stores before later ones; the writer loads nothing that others write, so waiting
 * loses no behaviour). That is weaker than x86-64 (which keeps all stores in order) and as weak as aarch64 is
 * for one storing thread. The reader loads a row's words in any order between the acquire load of the sequence word
 * and the acquire fence. A writer that is killed has issued a prefix of its stores; the buffer's stores still come
 * out, and the kernel's switch to another process puts a full barrier before its successor.
 *
 * Contents. Every write of a row has a number, its version, and stores it in a word of the row and in the string that
 * the row refers to. own[] and gen_of[] record, outside of the memory, the pid and the generation of the row of each
 * version.
 * The pid that the reader asks for is P; rows also go to another pid Q, so that a row changes hands.
 */

#ifndef VERSIONS
#define VERSIONS 4
#endif

#define P 1
#define Q 2

/* Places of the memory. */
#define INDEX 0               /* the index word of P */
#define SEQ(r) (1 + 4 * ((r) - 1))
#define GEN(r) (2 + 4 * ((r) - 1))
#define DATA(r) (3 + 4 * ((r) - 1))
#define REF(r) (4 + 4 * ((r) - 1))
#define TEXT(c) (8 + (c))    /* bytes of string c, 1 to 3; 0 is none */
byte mem[12];

#ifndef BUFFER
#define BUFFER 5
#endif
byte place[BUFFER];
byte value[BUFFER];
bit release[BUFFER];
byte pending;

/* Outside of the memory. */
byte own[VERSIONS + 2];
byte gen_of[VERSIONS + 2];
bit live;   /* the index names P's row, visibly to all processes */
byte life;  /* lives of P that have ended */
bool killed;
bool finished;

/* -- the writer ------------------------------------------------------------------------------------------------- */

inline store(p, v, r)
{
	atomic { pending < BUFFER -> place[pending] = p; value[pending] = v; release[pending] = r; pending++ }
}

inline fence()
{
	pending == 0
}

inline row_begin(r)
{
	seq[r] = seq[r] | 1;
	store(SEQ(r), seq[r], 0);
#ifndef NO_BEGIN_FENCE
	fence()
#endif
}

inline row_end(r)
{
	seq[r] = (seq[r] | 1) + 1;
#ifdef NO_END_RELEASE
	store(SEQ(r), seq[r], 0)
#else
	store(SEQ(r), seq[r], 1)
#endif
}

/* Fill in the open row r for the image `owner`, with a new string. */
inline fill(r, owner)
{
	d_step {
		version++;
		own[version] = owner;
		gen_of[version] = gen[r];
		cell = (user[1] == 0 -> 1 : (user[2] == 0 -> 2 : 3));
		assert(user[cell] == 0);
	}
	store(TEXT(cell), version, 0);
	store(DATA(r), version, 0);
	store(REF(r), cell, 0);
	d_step {
		/* The old string is free from here on, and the next new string reuses its bytes. */
		if :: text_of[r] != 0 -> user[text_of[r]] = 0 :: else fi;
		user[cell] = r;
		text_of[r] = cell;
	}
}

inline free_row(r)
{
#ifdef EARLY_REUSE
	/* The string is freed before the row is opened, and its bytes are reused at once. */
	store(TEXT(text_of[r]), 0, 0);
#endif
	row_begin(r);
	gen[r]++;
	store(GEN(r), gen[r], 0);
#ifndef NO_BEGIN_FENCE
	fence();
#endif
	d_step { if :: text_of[r] != 0 -> user[text_of[r]] = 0; text_of[r] = 0 :: else fi; owner[r] = 0 }
}

/* Any sequence of a writer's operations, up to VERSIONS rows written. */
inline work()
{
	do
	:: version < VERSIONS && head == 0 && (owner[1] == 0 || owner[2] == 0) ->
		/* P is forked: a fresh row (odd since it was freed) is filled, ended, and only then named. */
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = P }
		fill(row, P);
		row_end(row);
		store(INDEX, row, 1);
		head = row
	:: version < VERSIONS && head != 0 && owner[3 - head] == 0 ->
		/* P execs: a fresh row takes the old one's place in the index, then the old one is freed (in truth it is
		 * kept for a while; at once is the hardest case). */
		d_step { row = 3 - head; owner[row] = P }
		fill(row, P);
		row_end(row);
		store(INDEX, row, 1);
		d_step { row = head; head = 3 - head }
		free_row(row)
	:: version < VERSIONS && head != 0 ->
		/* P changes in place. */
		row_begin(head);
		fill(head, P);
		row_end(head)
	:: head != 0 ->
		/* P has ended and is evicted: first it is removed from the index. */
		atomic { store(INDEX, 0, 1); live = 0; life++; row = head; head = 0 }
		free_row(row)
	:: version < VERSIONS && (owner[1] == 0 || owner[2] == 0) ->
		/* Q gets a row, which is freed later. */
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = Q }
		fill(row, Q);
		row_end(row)
	:: owner[1] == Q || owner[2] == Q ->
		row = (owner[1] == Q -> 1 : 2);
		free_row(row)
	:: break
	od
}

/* A successor's repair. If the index names an odd row, its write was cut short: the successor writes it again. A row
 * that the index does not name is freed (its event is read again). */
inline take_over()
{
	pending == 0;
	d_step {
		head = mem[INDEX];
		row = 1;
		do
		:: row <= 2 ->
			seq[row] = mem[SEQ(row)];
			gen[row] = mem[GEN(row)];
			owner[row] = (head == row -> P : 0);
			text_of[row] = (head == row -> mem[REF(row)] : 0);
			row++
		:: else -> break
		od;
		user[1] = 0; user[2] = 0; user[3] = 0;
		if :: head != 0 && text_of[head] != 0 -> user[text_of[head]] = head :: else fi;
		row = 1
	}
	do
	:: row <= 2 && row == head && seq[row] % 2 == 1 ->
		fence(); fill(head, P); row_end(head); row++
	:: row <= 2 && row == head && seq[row] % 2 == 0 -> row++
	:: row <= 2 && row != head -> free_row(row); row++
	:: row > 2 -> break
	od
}

active proctype Writer()
{
	byte seq[3], gen[3], owner[4], text_of[3], user[4];
	byte version, head, row, cell;

	d_step {
		row = 1;
		do
		:: row <= 2 -> seq[row] = 1; gen[row] = 1; mem[SEQ(row)] = 1; mem[GEN(row)] = 1; row++
		:: else -> break
		od;
		row = 0
	}
	{ work() } unless { killed };
	if
	:: killed -> take_over(); work()
	:: else
	fi;
	finished = true
}

#ifndef NO_KILL
/* The writer may be killed between any two of its steps. */
active proctype Killer()
{
	if :: !finished -> killed = true :: finished fi
}
#endif

/* -- the memory ------------------------------------------------------------------------------------------------- */

active proctype Memory()
{
	byte i, j;

end:	do
	:: atomic {
		pending > 0 ->
		i = 0;
		do :: i + 1 < pending -> i++ :: break od;
		j = 0;
		do :: j < i && place[j] != place[i] && !release[i] -> j++ :: else -> break od;
		if
		:: j == i ->
			d_step {
				mem[place[i]] = value[i];
				if
				:: place[i] == INDEX && value[i] != 0 ->
					/* Except if the store that removes it is already in the buffer. */
					live = 1; j = i + 1;
					do
					:: j < pending -> live = live && !(place[j] == INDEX && value[j] == 0); j++
					:: else -> break
					od
				:: else
				fi;
				j = i + 1;
				do
				:: j < pending ->
					place[j - 1] = place[j]; value[j - 1] = value[j]; release[j - 1] = release[j]; j++
				:: else -> break
				od;
				pending--;
				place[pending] = 0; value[pending] = 0; release[pending] = 0
			}
		:: else
		fi;
		i = 0; j = 0
	}
	od
}

/* -- the reader ------------------------------------------------------------------------------------------------- */

#define WORD_GEN 1
#define WORD_DATA 2
#define WORD_REF 4
#define WORD_TEXT 8
#define WORD_SEQ 16
#define ALL_WORDS 15

active proctype Reader()
{
	byte row, s1, s2, generation, data, ref, text, left, last;
	bit was_live;
	byte in_life;

end:	do
	:: d_step { was_live = live; in_life = life };
		do
		:: row = mem[INDEX];
			if
			:: row == 0 ->
				/* "Absent". */
				assert(!(was_live && live && in_life == life));
				break
			:: else
			fi;
			s1 = mem[SEQ(row)];
			if :: s1 % 2 == 1 -> break :: else fi;  /* busy: reported to the caller, which may retry */
			/* The copy: words in any order; the string's bytes after the reference. Without the fence
			 * the second load of the sequence word is one more of them. */
#ifdef NO_ACQUIRE_FENCE
			left = ALL_WORDS | WORD_SEQ;
#else
			left = ALL_WORDS;
#endif
			do
			:: left & WORD_GEN -> generation = mem[GEN(row)]; left = left & ~WORD_GEN
			:: left & WORD_DATA -> data = mem[DATA(row)]; left = left & ~WORD_DATA
			:: left & WORD_REF -> ref = mem[REF(row)]; left = left & ~WORD_REF
			:: (left & WORD_TEXT) && !(left & WORD_REF) -> text = mem[TEXT(ref)]; left = left & ~WORD_TEXT
			:: left & WORD_SEQ -> s2 = mem[SEQ(row)]; left = left & ~WORD_SEQ
			:: left == 0 -> break
			od;
#ifndef NO_ACQUIRE_FENCE
			s2 = mem[SEQ(row)];
#endif
#ifndef NO_RECHECK
			if :: s1 != s2 -> break :: else fi;
#endif
			if
			:: own[data] != P ->
				/* The row was reused for another process after the index load. */
#ifdef MISMATCH_IS_ABSENT
				assert(!(was_live && live && in_life == life));
#endif
				break
			:: else
			fi;
#ifndef NO_INDEX_RECHECK
			if :: mem[INDEX] != row -> break :: else fi;
#endif
			/* Accepted: the copy is whole, of its generation, has its own string, and is not older than the last. */
			assert(text == data);
			assert(generation == gen_of[data]);
			assert(data >= last);
			last = data;
			break
		od;
		skip;
		d_step {
			row = 0; s1 = 0; s2 = 0; generation = 0; data = 0; ref = 0; text = 0; left = 0; was_live = 0; in_life = 0
		}
	od
}
