"""A timeline of processes as one HTML page: a bar for each process from its start to its end, nested by lineage.

Modules: `reading` collects processes and their images from the tables; `columns` arranges them as the columns that the
page contains; `page` makes the page. The script (`model.js`, `drawing.js`, `app.js`), `style.css` and `body.html`
are copied into it. The package does not start an instance and knows no command.

Anybody on the host can choose names, paths and arguments. They are escaped for display in `columns`, are data in the
page and never markup, and the page's policy allows no other script than its own and no network.
"""
