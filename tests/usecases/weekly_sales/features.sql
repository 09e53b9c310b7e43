-- One row for each row of the spine; what it reads of the past was known at the row's decision time.
WITH
known AS (
    SELECT
        now.store, now.item, now.partition, past.partition AS seen, past.price, past.units
    FROM spine AS now
    JOIN sales AS past
        ON past.store = now.store AND past.item = now.item
        AND past.known_at <= now.decision_time
        AND past.week BETWEEN now.week - INTERVAL 28 DAY AND now.week
    QUALIFY row_number() OVER (
        PARTITION BY now.store, now.item, now.partition, past.partition ORDER BY past.revision DESC
    ) = 1
),
history AS (
    SELECT
        store, item, partition,
        arg_max(units, seen) AS units_last_week,
        CAST(sum(units) FILTER (seen > lag_from) AS DOUBLE)
            / nullif(count(units) FILTER (seen > lag_from), 0) AS units_mean_4,
        arg_max(price, seen) FILTER (seen < partition) AS price_before
    FROM (
        SELECT *, strftime(CAST(partition AS DATE) - INTERVAL 28 DAY, '%Y-%m-%d') AS lag_from FROM known
    )
    GROUP BY store, item, partition
)
SELECT
    spine.store,
    spine.item,
    spine.partition,
    spine.price,
    spine.price - history.price_before AS price_change,
    spine.opens AS opens_minute,
    history.units_last_week,
    history.units_mean_4,
    CASE WHEN spine.promo THEN 'yes' ELSE 'no' END AS promoted
FROM spine
LEFT JOIN history USING (store, item, partition)
