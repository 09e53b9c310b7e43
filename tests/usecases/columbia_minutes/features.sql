-- All that is known of a flight when it has departed, and of it alone.
SELECT carrier, flight, origin, partition, dep_delay, sched_dep_time AS departs_minute
FROM spine
