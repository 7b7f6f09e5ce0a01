// SPDX-License-Identifier: Apache-2.0
//
// The cost of a look-up and of a hop in libsinsp's process table, in process; a peer for bench/live_lookup.py.
//
//     sinsp ENTRIES LOOKUPS RUNS DEPTH
//
// It prints one JSON object like peers/gomap, also of medians. The library's own add_thread fills the table with synthetic processes; pids
// and chains are the same as in the other peers.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <libsinsp/sinsp.h>
#include <memory>
#include <random>
#include <string>
#include <vector>

using clock_type = std::chrono::steady_clock;

static double ns_since(clock_type::time_point begin)
{
	return std::chrono::duration<double, std::nano>(clock_type::now() - begin).count();
}

static void print(const char *name, const std::vector<double> &values, const char *end)
{
	printf("\"%s\": [", name);
	for(size_t i = 0; i < values.size(); i++) {
		printf("%s%.3f", i ? ", " : "", values[i]);
	}
	printf("]%s", end);
}

static const int chunk = 1000; /* pids that are timed at once */

static double median(std::vector<double> &values)
{
	std::sort(values.begin(), values.end());
	return values[values.size() / 2];
}

int main(int argc, char **argv)
{
	if(argc < 5) {
		return 2;
	}
	const int entries = atoi(argv[1]), lookups = atoi(argv[2]), runs = atoi(argv[3]), depth = atoi(argv[4]);
	sinsp inspector;
	inspector.m_thread_manager->set_max_thread_table_size(entries + 1000);
	std::mt19937 random(1);
	for(int n = 0; n < entries; n++) {
		auto info = inspector.build_threadinfo();
		info->m_tid = info->m_pid = n + 2;
		info->m_ptid = n == 0 ? 0 : (n % (depth + 1) ? n - 1 : int(random() % n)) + 2;
		info->m_comm = "sleeper";
		info->m_exe = "sleeper";
		info->m_exepath = "/usr/lib/things/program-" + std::to_string(n % 1000);
		info->m_clone_ts = n;
		inspector.m_thread_manager->add_thread(std::move(info), true);
	}
	std::vector<int64_t> tids(lookups);
	for(auto &tid : tids) {
		tid = int64_t(random() % entries) + 2;
	}
	std::vector<double> lookup, hop;
	uint64_t sum = 0;
	for(int run = 0; run <= runs; run++) {
		std::vector<double> lookups_ns, hops_ns;
		for(int at = 0; at + chunk <= lookups; at += chunk) {
			const auto begin = clock_type::now();
			for(int i = at; i < at + chunk; i++) {
				const auto &info = inspector.m_thread_manager->find_thread(tids[i], true);
				if(!info) {
					fprintf(stderr, "tid %ld is not in the table\n", long(tids[i]));
					return 3;
				}
				sum += info->m_ptid + info->m_comm.size();
			}
			lookups_ns.push_back(ns_since(begin) / chunk);
		}
		for(int at = 0; at + chunk <= lookups; at += chunk) {
			const auto begin = clock_type::now();
			long hops = 0;
			for(int i = at; i < at + chunk; i++) {
				const auto &leaf = inspector.m_thread_manager->find_thread(tids[i], true);
				sinsp_threadinfo *info = leaf.get();
				for(int n = 0; n < depth && (info = info->get_parent_thread()) != nullptr; n++) {
					sum += info->m_pid;
					hops++;
				}
			}
			hops_ns.push_back(hops ? ns_since(begin) / hops : 0);
		}
		if(run > 0) { // the first run is a warm-up
			lookup.push_back(median(lookups_ns));
			hop.push_back(median(hops_ns));
		}
	}
	if(sum == 0) { // keeps the compiler from dropping the loops
		return 4;
	}
	printf("{");
	print("lookup_ns", lookup, ", ");
	print("hop_ns", hop, "}\n");
	return 0;
}
