/* Words of two rows that a reader keeps, and the ring of changed rows (docs/row-protocol.md, "Kept words"): one writer, a
 * reader and the index of one pid, P, under weak memory. The rows also serve another pid.
 *
 * The memory is that of row_protocol.pml: stores come out of a buffer in any order that fences, release stores and coherence
 * allow. Every write of a row has a number, its version, in both of its words. The reader reads rows and keeps what it has
 * read; between, it answers with kept words. Each answer must be a version of P, whole, and not older than the last.
 *
 * The ring is longer than the changes that the model makes. A reader that misses some forgets everything.
 */

#ifndef VERSIONS
#define VERSIONS 3
#endif

#define P 1
#define Q 2

#define INDEX 0               /* the index word of P */
#define COUNT 1
#define ONE(r) (2 + 3 * ((r) - 1))
#define TWO(r) (3 + 3 * ((r) - 1))
#define SEQ(r) (4 + 3 * ((r) - 1))
#define RING(n) (8 + (n))
#define CHANGES 20
byte mem[28];

#ifndef BUFFER
#define BUFFER 5
#endif
byte place[BUFFER];
byte value[BUFFER];
bit release[BUFFER];
byte pending;

byte own[VERSIONS + 3];
bool killed;
bool finished;

inline store(p, v, r)
{
	atomic { pending < BUFFER -> place[pending] = p; value[pending] = v; release[pending] = r; pending++ }
}

inline fence()
{
	pending == 0
}

/* Open a row that is published, or was: pl_row_begin, then pl_row_note. */
inline begin(r)
{
	assert(count < CHANGES);
#ifdef NOTE_FIRST
	note(r);
#endif
	seq[r] = seq[r] | 1;
	store(SEQ(r), seq[r], 0);
#ifndef NO_BEGIN_FENCE
	fence();
#endif
#ifndef NOTE_FIRST
#ifndef NOTE_LAST
	note(r)
#endif
#endif
}

inline note(r)
{
	store(RING(count), r, 0);
	count++;
#ifdef NO_COUNT_RELEASE
	store(COUNT, count, 0)
#else
	store(COUNT, count, 1)
#endif
}

/* Give an open row to `who`, and end it. */
inline fill(r, who)
{
	d_step { version++; own[version] = who };
	store(ONE(r), version, 0);
	store(TWO(r), version, 0);
	seq[r] = seq[r] + 1;
	store(SEQ(r), seq[r], 1)
}

inline free_row(r)
{
#ifdef NO_FREE_NOTE
	seq[r] = seq[r] | 1;
	store(SEQ(r), seq[r], 0);
	fence();
#else
	begin(r);
#ifdef NOTE_LAST
	note(r);
#endif
#endif
	owner[r] = 0
}

inline work()
{
	do
	:: version < VERSIONS && (owner[1] == 0 || owner[2] == 0) ->
		/* P is forked, or execs. */
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = P }
		fill(row, P);
		store(INDEX, row, 1);
		if
		:: head != 0 -> atomic { other = head; head = row; row = other }; free_row(row)
		:: else -> head = row
		fi
	:: version < VERSIONS && head != 0 ->
		begin(head);
		fill(head, P);
#ifdef NOTE_LAST
		note(head)
#endif
	:: head != 0 ->
		store(INDEX, 0, 1);
		row = head;
		head = 0;
		free_row(row)
	:: version < VERSIONS && (owner[1] == 0 || owner[2] == 0) ->
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = Q }
		fill(row, Q)
	:: owner[1] == Q || owner[2] == Q ->
		row = (owner[1] == Q -> 1 : 2);
		free_row(row)
	:: break
	od
}

/* The row that the index names is opened and closed again if it was left open; the other is freed. */
inline take_over()
{
	pending == 0;
	d_step {
		head = mem[INDEX];
		count = mem[COUNT];
		row = 1;
		do
		:: row <= 2 -> seq[row] = mem[SEQ(row)]; owner[row] = (head == row -> P : 0); row++
		:: else -> break
		od;
		row = 1
	}
	do
	:: row <= 2 && row == head && seq[row] % 2 == 1 ->
#ifndef NO_TAKEOVER_NOTE
		begin(row);
#endif
		fill(row, P);
#ifdef NOTE_LAST
		note(row);
#endif
		row++
	:: row <= 2 && row == head && seq[row] % 2 == 0 -> row++
	:: row <= 2 && row != head -> free_row(row); row++
	:: row > 2 -> break
	od
}

active proctype Writer()
{
	byte seq[3], owner[3];
	byte version, head, row, other, count;

	d_step { seq[1] = 1; seq[2] = 1; mem[SEQ(1)] = 1; mem[SEQ(2)] = 1 }
	{ work() } unless { killed };
	if
	:: killed -> take_over(); work()
	:: else
	fi;
	finished = true
}

#ifndef NO_KILL
active proctype Killer()
{
	if :: !finished -> killed = true :: finished fi
}
#endif

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

/* Read a row as row_protocol.pml does; `one` is its version, 0 if it is busy or changes. */
inline read_row()
{
	one = 0;
	s1 = mem[SEQ(row)];
	if
	:: s1 % 2 == 1
	:: else ->
		if
		:: one = mem[ONE(row)]; two = mem[TWO(row)]
		:: two = mem[TWO(row)]; one = mem[ONE(row)]
		fi;
		s2 = mem[SEQ(row)];
		if
		:: s1 != s2 || own[one] != P || mem[INDEX] != row -> one = 0
		:: else -> assert(one == two)
		fi
	fi
}

inline answer()
{
	d_step {
		if
		:: one != 0 && !failed -> assert(own[one] == P); assert(one >= last); last = one
		:: else
		fi;
		row = 0; s1 = 0; s2 = 0; one = 0; two = 0; now = 0; failed = 0
	}
}

active proctype Reader()
{
	byte kept[3];
	byte row, s1, s2, one, two, last, position, now;
	bit failed;

end:	do
	:: now = mem[COUNT];
		do
		:: position < now -> kept[mem[RING(position)]] = 0; position++
		:: else -> break
		od;
#ifdef NO_ACQUIRE_FENCE
		/* The last load is before the load of the index. */
		failed = mem[COUNT] != position;
#endif
		row = mem[INDEX];
		if
		:: row == 0
		:: row != 0 && own[kept[row]] == P -> one = kept[row]
		:: row != 0 && own[kept[row]] != P -> read_row(); kept[row] = one
		fi;
#ifndef NO_ACQUIRE_FENCE
#ifndef NO_LAST_LOAD
		failed = mem[COUNT] != position;
#endif
#endif
		answer()
	:: /* A look-up of one pid, or of a group whose kept words are not valid. */
		row = mem[INDEX];
		if :: row != 0 -> read_row() :: else fi;
		answer()
	od
}
