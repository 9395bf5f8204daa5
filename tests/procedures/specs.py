"""Specs of the tests: dynamic sampling, functions with state, computed options, on a small transformer."""

HEAD = """
  data  tasks  = arithmetic(digits: 1, size: 80, test: 20)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
"""

DYNAMIC = """
function filled(group: int >= 2 = 4, prompts: int >= 1 = 8, batches: int >= 1 = 10) {
  input policy : model
  input tasks  : data
  repeat round: batches with kept = none until size(kept, over: prompt) >= prompts {
    fresh  ~ sample(policy, tasks, group: group, prompts: prompts, max_tokens: 3)
    best    = max(fresh.length, by: fresh.group)
    kept   <- join(kept, fresh[best > min(fresh.length, by: fresh.group)])
  }
  return first(kept, prompts, over: prompt)
}

pipeline dynamic(batches: int = 10, prompts: int = 8) {#HEAD
  samples ~ filled(policy, tasks, batches: batches, prompts: prompts)
  flow policy: dapo(score(policy, samples)) -> backprop -> adamw(lr: 1e-3)
  train 3 rollouts (seed: 0, minibatches: 2) {
    every rollout {
      report prompts = size(samples, over: prompt)
      report samples = size(samples, over: sample)
      report reward  = mean(samples.reward, over: sample)
      report spread  = min(max(samples.length, by: samples.group) - min(samples.length, by: samples.group), over: prompt)
      report group   = max(samples.group, over: sample)
      report logp    = mean(samples.logp_old)
      checkpoint
    }
  }
}
""".replace("#HEAD", HEAD)

STATEFUL = """
function before(first: real = 0) {
  input x : real
  state held = first
  past  = held
  held <- x
  return past
}

function visited {
  input reward : [sample]
  input group  : [sample -> task]
  state visits, level : [task] = 0
  m = mean(reward, by: group)
  when count(by: group) > 0 {
    visits <- visits + 1
    level  <- (visits * level + m) / (visits + 1)
  }
  return (advantage: reward - level, visits: visits, level: level)
}

function allocated(n: int >= 1 = 4) {
  input policy : model
  input tasks  : data
  state seen : bool[task: 100] = false
  batch   ~ draw(tasks, prompts: 8)
  samples ~ sample(policy, batch, group: where(seen[task: batch.id], n, n + 1), max_tokens: 3)
  luck    ~ uniform(0, 1, [samples.reward])
  when count(by: samples.task) > 0 { seen <- true }
  return extend(samples, luck: luck)
}

pipeline stateful {#HEAD
  samples ~ allocated(policy, tasks)
  credit  ~ visited(1 / samples.length, samples.task)
  heat    ~ before(mean(1 / samples.length))
  warm    ~ sample(policy, tasks, group: 2, prompts: 4, max_tokens: 3, temperature: 1 + heat)
  flow policy: dapo(score(policy, samples), advantage: credit.advantage) + 0.1 * grpo(score(policy, warm)) -> backprop -> adamw(lr: 1e-3)
  train 14 rollouts (seed: 0) {
    every rollout {
      report n      = size(samples, over: sample)
      report level  = mean(1 / samples.length, over: sample)
      report heat   = heat
      report visits = sum(credit.visits)
      report luck   = mean(samples.luck)
      report warm   = mean(warm.logp_old)
      checkpoint
    }
  }
}
""".replace("#HEAD", HEAD)

LOOPED = """
function mixed(rounds: int >= 1 = 3) {
  input policy : model
  input tasks  : data
  total = 0
  luck  = 0
  repeat round: rounds with heat = 1 {
    some  ~ sample(policy, tasks, group: 2, prompts: 4, max_tokens: 3, temperature: heat)
    chance ~ uniform(0, 1, [some.reward])
    total <- total + size(some, over: sample)
    luck  <- where(luck == 0, 1, luck) * mean(chance)
    heat  <- heat + 0.5
  }
  return extend(some_of(policy, tasks), total: total, luck: luck, heat: heat)
}

function some_of {
  input policy : model
  input tasks  : data
  last ~ sample(policy, tasks, group: 2, prompts: 4, max_tokens: 3)
  return last
}

pipeline looped(rounds: int = 3) {#HEAD
  samples ~ mixed(policy, tasks, rounds: rounds)
  flow policy: grpo(score(policy, samples)) -> backprop -> adamw(lr: 1e-3)
  train 3 rollouts (seed: 0) { every rollout { report total = samples.total; report luck = samples.luck; report heat = samples.heat; checkpoint } }
}
""".replace("#HEAD", HEAD)
