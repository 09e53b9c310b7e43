-- One row for each row of the spine, in training and in scoring alike. Read `known_<source>`: it holds, for each
-- night (`for_night`), only what that night could have known, with `ago` as the number of nights back.
WITH past AS (
    SELECT for_night AS night, item, sum(sold) / count(sold) AS sold_mean_7
    FROM known_items
    WHERE ago <= 6
    GROUP BY for_night, item
)
SELECT
    spine.item,
    spine.night,
    spine.price,
    isodow(spine.day) AS weekday,
    spine.sold AS sold_yesterday,
    past.sold_mean_7,
    CASE WHEN spine.promoted THEN 'yes' ELSE 'no' END AS promoted
FROM spine
LEFT JOIN past USING (night, item)
