-- Views of manifest.duckdb. They use no syntax that DuckDB 1.x lacks.

-- Scores of main records and of their twins, in the rendering by which a record is known, by format for
-- test sets, or in place (`site`).
-- A twin is read by the level of its main record, and its variant ends with `role=twin`.
create view record_scores as
select s.run, r.arm, r.model, r.draw, s.step, s.record_id, rec.perturbation, rec.role, rec.cluster_id,
       a.level, s.rendering, s.probe,
       case when rec.role = 'twin' then concat_ws(',', nullif(s.variant, ''), 'role=twin') else s.variant end as variant,
       s.metric, s.value
from scores s
join runs r using (run)
join records rec using (record_id)
join renderings ren on ren.record_id = s.record_id and ren.rendering = s.rendering
join assignments a
  on a.arm = r.arm and a.draw = r.draw
 and a.record_id = case when rec.role = 'twin' then regexp_replace(s.record_id, '/twin$', '') else s.record_id end
where ren.text = rec.text or s.variant like 'format=%' or s.variant like 'site=%';

create view dose_response as
select run, arm, model, draw, step, perturbation, level, probe, variant, metric, count(*) as n, avg(value) as mean
from record_scores
group by run, arm, model, draw, step, perturbation, level, probe, variant, metric;

-- The same of models from elsewhere, by the levels of draw 0: they belong to no arm.
create view external_response as
select s.run, rec.perturbation, a.level, s.probe, s.variant, s.metric, count(*) as n, avg(s.value) as mean
from external_scores s
join records rec using (record_id)
join renderings ren on ren.record_id = s.record_id and ren.rendering = s.rendering
join (select record_id, max(level) as level from assignments where draw = 0 group by record_id) a using (record_id)
where rec.role = 'main' and (ren.text = rec.text or s.variant like 'format=%' or s.variant like 'site=%')
group by s.run, rec.perturbation, a.level, s.probe, s.variant, s.metric;

create view paired as
select t.run as treated, c.run as control, t.step, t.record_id, t.level, t.probe, t.variant, t.metric,
       t.value as treated_value, c.value as control_value, t.value - c.value as difference
from record_scores t
join arms using (arm)
join record_scores c
  on c.arm = arms.control and c.model = t.model and c.draw = t.draw and c.step = t.step
 and c.record_id = t.record_id and c.rendering = t.rendering
 and c.probe = t.probe and c.variant = t.variant and c.metric = t.metric;

-- Estimates of all draws together: of one draw only where there is no other.
create view pooled_effects as
with whole as (select distinct estimand, perturbation, treated from effects where n_runs > 1)
select e.* from effects e
where e.estimate is not null
  and not (e.n_runs = 1 and exists (
      select * from whole w
      where w.estimand = e.estimand and w.perturbation = e.perturbation
        and w.treated = regexp_replace(e.treated, '[.]d[0-9]+$', '')
  ));

create view timing_effect as
select * from effects where estimand = 'timing';

-- Every copy that an arm's runs read, and before it those of the arms whose last weights they started from:
-- slots and steps go on counting, so that what a parent read lies below 0.
create view history as
with recursive line(arm, ancestor, slots, steps) as (
    select arm, arm, 0::bigint, 0::bigint from arms
    union all
    select line.arm, above.arm, line.slots + above.steps * above.batch, line.steps + above.steps
    from line
    join arms own on own.arm = line.ancestor
    join arms above on above.arm = own.parent_arm
)
select line.arm, e.arm as read_by, e.draw, e.record_id, e.copy, e.slot - line.slots as slot, e.step - line.steps as step
from line
join exposures e on e.arm = line.ancestor;

-- Copies of each record that a checkpoint has read, its ancestors' included: those of steps before it.
create view dose_at_step as
select c.run, c.step, a.record_id, count(e.slot) as copies
from checkpoints c
join runs r using (run)
join assignments a on a.arm = r.arm and a.draw = r.draw
left join history e
  on e.arm = r.arm and e.draw = r.draw and e.record_id = a.record_id and e.step < c.step
group by c.run, c.step, a.record_id;

create view forgetting as
select s.run, s.step, s.record_id, s.level,
       (s.step * arms.batch - last.slot - 1) * (select max(sequence_length) from corpus) as tokens_since,
       s.probe, s.variant, s.metric, s.value
from record_scores s
join arms using (arm)
join (
    select c.run, c.step, e.record_id, max(e.slot) as slot
    from checkpoints c
    join runs r using (run)
    join history e on e.arm = r.arm and e.draw = r.draw and e.step < c.step
    group by c.run, c.step, e.record_id
) last on last.run = s.run and last.step = s.step and last.record_id = s.record_id
where s.role = 'main';
