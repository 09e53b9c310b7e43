-- One row for each zone, with its rides now, an hour before and a day before.
SELECT
    spine.zone,
    spine.partition,
    CAST(hour(spine.at AT TIME ZONE 'America/New_York') AS DOUBLE) AS hour,
    spine.rain,
    CAST(spine.rides AS DOUBLE) AS rides_now,
    CAST(before.rides AS DOUBLE) AS rides_before,
    CAST(yesterday.rides AS DOUBLE) AS rides_yesterday
FROM spine
LEFT JOIN known_counts AS before
    ON before.for_partition = spine.partition AND before.zone = spine.zone AND before.ago = 1
LEFT JOIN known_counts AS yesterday
    ON yesterday.for_partition = spine.partition AND yesterday.zone = spine.zone AND yesterday.ago = 24
