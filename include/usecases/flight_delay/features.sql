-- What is known at 18:00 about each of tomorrow's flights.
-- A late rate is a count over a count, drawn towards the overall rate of the same 28 partitions where there are few
-- flights: (late + k * overall) / (flights + k). Counts are whole numbers, so each run gives the same floats.
WITH

flown AS (  -- the flights of which each partition knows the outcome, with where they went
    SELECT o.for_partition, o.ago, o.carrier, o.flight, o.origin, s.dest, o.arr_delay > 15 AS late
    FROM known_outcomes o
    LEFT JOIN known_schedule s
        ON  s.for_partition = o.for_partition AND s.ago = o.ago + 2
        AND s.carrier = o.carrier AND s.flight = o.flight AND s.origin = o.origin
    WHERE o.arr_delay IS NOT NULL
),
overall AS (
    SELECT for_partition, count(*) FILTER (late) / count(*) AS rate FROM flown GROUP BY for_partition
),
carriers AS (
    SELECT for_partition, carrier,
           count(*) FILTER (late AND ago < 7) AS late_7, count(*) FILTER (ago < 7) AS flown_7,
           count(*) FILTER (late) AS late_28, count(*) AS flown_28
    FROM flown GROUP BY for_partition, carrier
),
origins AS (
    SELECT for_partition, origin,
           count(*) FILTER (late AND ago < 2) AS late_2, count(*) FILTER (ago < 2) AS flown_2,
           count(*) FILTER (late AND ago < 7) AS late_7, count(*) FILTER (ago < 7) AS flown_7
    FROM flown GROUP BY for_partition, origin
),
dests AS (
    SELECT for_partition, dest, count(*) FILTER (late) AS late_28, count(*) AS flown_28 FROM flown GROUP BY for_partition, dest
),
flights AS (
    SELECT for_partition, carrier, flight, origin, count(*) FILTER (late) AS late_28, count(*) AS flown_28
    FROM flown GROUP BY for_partition, carrier, flight, origin
),
busy AS (
    SELECT partition, origin, scheduled, count(*) AS flights FROM spine GROUP BY partition, origin, scheduled
),
weather_ahead AS (
    SELECT * FROM known_weather WHERE ago = 0
),
fleet AS (  -- the newest snapshot's word on each plane
    SELECT for_partition, tailnum, year, seats FROM known_planes
    QUALIFY row_number() OVER (PARTITION BY for_partition, tailnum ORDER BY ago) = 1
)

SELECT
    s.carrier, s.flight, s.origin, s.partition,
    s.sched_dep_time AS departs_minute,
    (s.sched_arr_time - s.sched_dep_time + 1440) % 1440 AS duration_scheduled,
    s.distance,
    isodow(timezone('America/New_York', s.scheduled)) AS weekday,
    b.flights AS flights_in_hour,
    w.temp, w.humid, w.wind_speed, w.precip, w.pressure, w.visib,
    s.year - p.year AS plane_age,
    p.seats,
    (c.late_7 + 20 * o.rate) / (c.flown_7 + 20) AS carrier_late_7,
    (c.late_28 + 20 * o.rate) / (c.flown_28 + 20) AS carrier_late_28,
    (a.late_2 + 20 * o.rate) / (a.flown_2 + 20) AS origin_late_2,
    (a.late_7 + 20 * o.rate) / (a.flown_7 + 20) AS origin_late_7,
    (d.late_28 + 20 * o.rate) / (d.flown_28 + 20) AS dest_late_28,
    (coalesce(f.late_28, 0) + 5 * o.rate) / (coalesce(f.flown_28, 0) + 5) AS flight_late_28,
    s.dest
FROM spine s
LEFT JOIN busy b USING (partition, origin, scheduled)
LEFT JOIN weather_ahead w ON w.for_partition = s.partition AND w.origin = s.origin AND w.observed = s.scheduled
LEFT JOIN fleet p ON p.for_partition = s.partition AND p.tailnum = s.tailnum
LEFT JOIN overall o ON o.for_partition = s.partition
LEFT JOIN carriers c ON c.for_partition = s.partition AND c.carrier = s.carrier
LEFT JOIN origins a ON a.for_partition = s.partition AND a.origin = s.origin
LEFT JOIN dests d ON d.for_partition = s.partition AND d.dest = s.dest
LEFT JOIN flights f ON f.for_partition = s.partition AND f.carrier = s.carrier AND f.flight = s.flight AND f.origin = s.origin
