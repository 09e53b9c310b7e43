-- One row for each row of the spine, in training and in scoring alike. Read `known_<source>`: it holds, for each
-- partition (`for_partition`), only what that partition could have known, with `ago` as the number of partitions back.
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
