-- One row for each row of the spine, in training and in scoring alike. `known_<source>` holds, for each partition
-- (`for_partition`), only the rows that were known by its decision time. `ago` counts the partitions back from it.
WITH past AS (
    SELECT for_partition AS partition, item, sum(sold) / count(sold) AS sold_mean_7
    FROM known_items
    WHERE ago <= 6
    GROUP BY for_partition, item
)
SELECT
    spine.item,
    spine.partition,
    spine.price,
    isodow(spine.day) AS weekday,
    spine.sold AS sold_yesterday,
    past.sold_mean_7,
    CASE WHEN spine.promoted THEN 'yes' ELSE 'no' END AS promoted
FROM spine
LEFT JOIN past USING (partition, item)
