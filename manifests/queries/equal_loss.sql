-- Two sizes at equal validation loss: the smaller at its end, the larger at the first checkpoint that is as good.
-- The larger has then read fewer of the copies, so compare with `copies`, the mean that its records were read by then.
with sets as (
    select arm, string_agg(perturbation, ', ' order by perturbation) as inserted from arm_perturbations group by arm
), finished as (
    select r.run, r.draw, r.steps, s.inserted, m.parameters, v.loss
    from runs r
    join sets s using (arm)
    join models m using (model)
    join validation v on v.run = r.run and v.step = r.steps
), equal as (
    select a.run as smaller, a.steps as smaller_step, b.run as larger, min(v.step) as larger_step
    from finished a
    join finished b on b.draw = a.draw and b.inserted = a.inserted and b.steps = a.steps and b.parameters > a.parameters
    join validation v on v.run = b.run and v.loss <= a.loss
    group by all
), beyond as (
    select d.run, d.step, d.perturbation, d.level, d.mean - held.mean as nll
    from dose_response d
    join dose_response held using (run, step, perturbation, probe, variant, metric)
    where held.level = 0 and d.level > 0 and d.probe = 'likelihood' and d.variant = '' and d.metric = 'nll_token'
), dose as (
    select d.run, d.step, rec.perturbation, a.level, avg(d.copies) as copies
    from dose_at_step d
    join runs r using (run)
    join assignments a on a.arm = r.arm and a.draw = r.draw and a.record_id = d.record_id
    join records rec on rec.record_id = d.record_id
    group by all
)
select e.smaller, e.larger, e.larger_step, s.perturbation, s.level,
  sc.copies as smaller_copies, round(s.nll, 3) as smaller_beyond_held_out,
  round(lc.copies, 1) as larger_copies, round(l.nll, 3) as larger_beyond_held_out
from equal e
join beyond s on s.run = e.smaller and s.step = e.smaller_step
join beyond l on l.run = e.larger and l.step = e.larger_step and l.perturbation = s.perturbation and l.level = s.level
join dose sc on sc.run = e.smaller and sc.step = e.smaller_step and sc.perturbation = s.perturbation and sc.level = s.level
join dose lc on lc.run = e.larger and lc.step = e.larger_step and lc.perturbation = s.perturbation and lc.level = s.level
order by all;
