// Forms that act: a run of a DAG, or the answer to a training's question, by Airflow's own API. The browser's
// login is sent along, so Airflow allows what it would allow in its own pages.
const api = `${document.body.dataset.airflow}/api/v2/dags/`

async function call(path, method = 'GET', body = undefined) {
  const headers = body ? {'Content-Type': 'application/json'} : {}
  const response = await fetch(api + path, {method, headers, body: body && JSON.stringify(body)})
  const answer = await response.json().catch(() => ({}))
  if (response.ok) return answer
  const detail = answer.detail?.message ?? answer.detail ?? response.statusText
  throw new Error(response.status === 403 ? 'your Airflow role may not do this' : typeof detail === 'string' ? detail : JSON.stringify(detail))
}

function show(output, text, run = null, tone = '') {
  output.textContent = text + ' '
  output.className = tone
  if (!run) return
  const link = document.createElement('a')
  link.href = `${document.body.dataset.airflow}/dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.dag_run_id)}`
  link.target = '_top'
  link.textContent = 'Show the run'
  output.append(link)
}

async function start(form, output) {
  const conf = {...JSON.parse(form.dataset.conf), ...Object.fromEntries(new FormData(form))}
  const dag = encodeURIComponent(form.dataset.dag), runs = `${dag}/dagRuns`
  if ((await call(dag)).is_paused) throw new Error(`${form.dataset.dag} is paused; unpause it first`)
  let run = await call(runs, 'POST', {logical_date: null, conf})
  while (!['success', 'failed'].includes(run.state)) {
    show(output, `The run is ${run.state}.`, run)
    await new Promise(resolve => setTimeout(resolve, 1000))
    run = await call(`${runs}/${encodeURIComponent(run.dag_run_id)}`)
  }
  const done = run.state === 'success'
  show(output, `${done ? 'Done' : 'Refused'}: ${run.note ?? ''}`, run, done ? 'good' : 'bad')
  if (!done) return false
  const again = document.createElement('a')
  again.href = ''
  again.textContent = 'Load the page again'
  output.append(' ', again)
  return true
}

async function answer(form, output, choice) {
  const runs = `${encodeURIComponent(form.dataset.dag)}/dagRuns`
  const open = await call(`${runs}/~/hitlDetails?response_received=false`)
  const question = open.hitl_details.find(one => one.body?.startsWith(form.dataset.question))
  if (!question) throw new Error('no training waits for this answer any more; load the page again')
  const task = question.task_instance
  const path = `${runs}/${encodeURIComponent(task.dag_run_id)}/taskInstances/${encodeURIComponent(task.task_id)}/${task.map_index}/hitlDetails`
  await call(path, 'PATCH', {chosen_options: [choice], params_input: Object.fromEntries(new FormData(form))})
  show(output, `The answer, ${choice}, is given; the training goes on.`, task, 'good')
  return true
}

document.addEventListener('submit', async event => {
  const form = event.target.closest('form[data-dag]')
  if (!form) return
  event.preventDefault()
  const output = form.querySelector('output')
  const buttons = form.querySelectorAll('button:not([hidden])')
  buttons.forEach(button => { button.disabled = true })
  show(output, 'Sending …')
  let done = false
  try {
    done = await ('answer' in form.dataset ? answer(form, output, event.submitter.value) : start(form, output))
  } catch (error) {
    show(output, `Nothing was done: ${error.message}`, null, 'bad')
  }
  buttons.forEach(button => { button.disabled = done })
})

// Airflow's frame may not navigate the page around it, so a link to Airflow's own pages is followed from there.
document.addEventListener('click', event => {
  const link = event.target.closest('a[target=_top]')
  if (!link || window.top === window) return
  event.preventDefault()
  const outer = window.top.document.createElement('a')
  outer.href = link.href
  outer.click()
})

// A report's frame has an origin of its own, so it can't read Airflow's theme.
document.querySelectorAll('iframe[data-src]').forEach(frame => {
  frame.src = `${frame.dataset.src}?theme=${document.documentElement.dataset.theme}`
})

// on a narrow screen each cell is a line of its own, behind its column's heading; see style.css
for (const table of document.querySelectorAll('table')) {
  const headings = [...table.querySelectorAll('th')].map((heading) => heading.textContent.trim())
  for (const cell of table.querySelectorAll('td')) {
    if (cell.colSpan === 1 && headings[cell.cellIndex]) cell.dataset.label = headings[cell.cellIndex]
  }
}
