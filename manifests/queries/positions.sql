-- Where copies lie, in tenths of the places that their lengths leave them: a flat column is a balanced design.
select arm, least(9, cast(floor(10.0 * (start - 1) / ((select max(sequence_length) from corpus) - 1 - length)) as integer)) as tenth,
       count(*) as copies, round(avg(at_boundary::integer), 3) as at_boundary
from exposures
group by all
order by all;
