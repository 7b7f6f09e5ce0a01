/* Words of two rows that a reader keeps, and the ring of changed rows (docs/row-protocol.md, "Kept words"): one writer, a
 * reader and the index of one pid, P, under weak memory. The rows also serve another pid.
 *
 * The memory is that of row_protocol.pml: stores come out of a buffer in any order that fences, release stores and coherence
 * allow. Every write of a row has a number, its version, in both of its words. The reader reads rows and keeps what it has
 * read; between, it answers with kept words. Each answer must be a version of P, whole, and not older than the last.
 *
 * The ring is longer than the changes that the model makes. A reader that misses some forgets everything.
 *
 * Each mutation removes one part (LACKS=NAME in the environment of pan), as in row_protocol.pml.
 */

#ifndef VERSIONS
#define VERSIONS 3
#endif

#define PARTS(each) each(NO_LAST_LOAD) each(NO_ACQUIRE_FENCE) each(NOTE_FIRST) each(NOTE_LAST) each(NO_BEGIN_FENCE) \
	each(NO_COUNT_RELEASE) each(NO_FREE_NOTE) each(NO_TAKEOVER_NOTE)
#define VARIABLE(part) static char part;
#define CHOOSE(part) part = lacks && !strcmp(lacks, #part);
#define LACKS(part) c_expr { part }
c_decl {
	PARTS(VARIABLE)
	__attribute__((constructor)) static void choose(void) { const char *lacks = getenv("LACKS"); PARTS(CHOOSE) }
};

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
	store_if(1, p, v, r)
}

/* One step, with which a store enters the buffer if `on` is 1. */
inline store_if(on, p, v, r)
{
	d_step { pending + on <= BUFFER -> if :: on -> append(p, v, r) :: else fi }
}

inline append(p, v, r)
{
	place[pending] = p; value[pending] = v; release[pending] = r; pending++
}

inline append_note(r)
{
	append(RING(count), r, 0);
	count++;
	append(COUNT, count, !no_count_release)
}

/* Open a row that is published, or was: pl_row_begin, then pl_row_note if `noted` is 1. */
inline begin(r, noted)
{
	assert(count < CHANGES);
	seq[r] = seq[r] | 1;
	d_step {
		pending + (note_first -> 3 : 1) <= BUFFER ->
		if :: note_first -> append_note(r) :: else fi;
		append(SEQ(r), seq[r], 0)
	}
	pending == 0 || no_begin_fence;
	store_if(noted, RING(count), r, 0);
	count = count + noted;
	store_if(noted, COUNT, count, !no_count_release)
}

/* Give an open row to `who`, and end it; if `noted` is 1, it is noted only then. */
inline fill(r, who, noted)
{
	d_step { version++; own[version] = who };
	store(ONE(r), version, 0);
	store(TWO(r), version, 0);
	seq[r] = seq[r] + 1;
	d_step {
		pending + (noted -> 3 : 1) <= BUFFER ->
		append(SEQ(r), seq[r], 1);
		if :: noted -> append_note(r) :: else fi
	}
}

inline free_row(r)
{
	begin(r, note_freed);
	owner[r] = 0
}

inline work()
{
	do
	:: version < VERSIONS && (owner[1] == 0 || owner[2] == 0) ->
		/* P is forked, or execs. */
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = P }
		fill(row, P, 0);
		store(INDEX, row, 1);
		if
		:: head != 0 -> atomic { other = head; head = row; row = other }; free_row(row)
		:: else -> head = row
		fi
	:: version < VERSIONS && head != 0 ->
		begin(head, note_changed);
		fill(head, P, note_last)
	:: head != 0 ->
		store(INDEX, 0, 1);
		row = head;
		head = 0;
		free_row(row)
	:: version < VERSIONS && (owner[1] == 0 || owner[2] == 0) ->
		d_step { row = (owner[1] == 0 -> 1 : 2); owner[row] = Q }
		fill(row, Q, 0)
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
		begin(row, note_taken_over);
		fill(row, P, note_last);
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
	bit no_begin_fence, no_count_release, note_first, note_last, note_changed, note_freed, note_taken_over;

	d_step {
		no_begin_fence = LACKS(NO_BEGIN_FENCE);
		no_count_release = LACKS(NO_COUNT_RELEASE);
		note_first = LACKS(NOTE_FIRST);
		note_last = LACKS(NOTE_LAST);
		note_changed = !note_first && !note_last;
		note_freed = !note_first && !LACKS(NO_FREE_NOTE);
		note_taken_over = note_changed && !LACKS(NO_TAKEOVER_NOTE);
		seq[1] = 1; seq[2] = 1; mem[SEQ(1)] = 1; mem[SEQ(2)] = 1
	}
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
		if
		:: !LACKS(NO_ACQUIRE_FENCE) -> row = mem[INDEX]
		:: LACKS(NO_ACQUIRE_FENCE) -> failed = mem[COUNT] != position; row = mem[INDEX]
		fi;
		if
		:: row == 0
		:: row != 0 && own[kept[row]] == P -> one = kept[row]
		:: row != 0 && own[kept[row]] != P -> read_row(); kept[row] = one
		fi;
		failed = (LACKS(NO_ACQUIRE_FENCE) || LACKS(NO_LAST_LOAD) -> failed : mem[COUNT] != position);
		answer()
	:: /* A look-up of one pid, or of a group whose kept words are not valid. */
		row = mem[INDEX];
		if :: row != 0 -> read_row() :: else fi;
		answer()
	od
}
