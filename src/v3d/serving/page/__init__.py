"""The web page: uploads in, stages as they go, viewers of what was made, and all that was made before.

Everything is asked of the desk, as the REST calls do; what the page shows of a job comes from its row, so a
reload or a restart loses nothing. Needs the extra `app`.
"""

from v3d.serving.page.layout import mount as mount
