-- Loss on the validation documents at every checkpoint, beside the loss of the 20 training steps before it.
select v.run, v.step, v.tokens, v.loss as validation_loss, avg(l.loss) as training_loss
from validation v
left join log l on l.run = v.run and l.step >= v.step - 20 and l.step < v.step
group by v.run, v.step, v.tokens, v.loss
order by v.run, v.step;
