"""Words that our own outputs consist of: alone they identify nobody, not even somebody who is called so."""

from .deidentified import words_of

# Of captions, tables, reports, codes, formats and styles, and names of folders that everybody has.
OURS = words_of("""
    about above absolute absorbed accompanying action activity added additional affine ahead algorithm all alone
    alpha altered anatomical and anonymized anonymous anterior apart applicable application april area array art
    artificial ascent asks associated attributes august author authorization automatic axes axial background band
    bar base become becomes bed begin below best beta big bin binary bitstream black block blue body bold bone
    border bottom box brain branch bright brown bundle button bytes call car case cast category center centre chain
    chance change changes channel character characters charge chunk claim class clear clinic close cloud cluster
    clusters code color colour colours column complete completeness component concept conditions confidentiality
    configuration contact contained container content contents context continuous contract copies copyright corner
    corners coronal count create created creation creator cross csv ct cubic current damage damages dark data
    datasets day dead december decode deep default dense department depends depth derivation derived descent design
    designs desktop deviation device diagnosis dicom digest dimension display distribute distributed document
    documentation documents domain downloads drop each east edge edges effect either element empty encoding end
    endian english equipment error even event except explain explained explanation export express extent face faces
    false family february field file files fill filter find finding fine first fit flag flags flat float following
    font fonts for forest form format foundation frame frames free from full further gain gap general generated
    glyphs grad grant granted grants gray green grey grid grids ground group groups head health heart height hereby
    hidden high hold home hospital house html hu identifier identity image images imaging imported included
    including index indirect inferior information initial inline input instance institute intelligence item itself
    january json july june keep kept key keywords label language large larger last layer left lesion less level
    liability library license light lime limit limitation limited line list listed little liver long low lower
    lowered lowers lung magnitude main manufacturer map march mark mask material max maximum may mean measure
    measured measurement measurements medical memory merge mesh method middle millimeter min minimum missing
    modality mode model modifications modified monochrome more motion mr name names need negative network new nice
    nifti nm node none north not note notices november null number numbers object observer observers obtaining
    october one only opacity open operation order ordering orientation original ot other output over overlay package
    page pages parameter parameters parent part particular path patient pdf peak percent permission permit person
    persons phantom pixel pixels place plane pm png point policy position positive posterior power prediction
    preliminary present price primary prior procedure process processing producer product profile promote provided
    pt public publish purpose quantity question radiological radiology raise raises random range ray read reader
    reading record red reference referenced region regions registry regular related relational relevance report
    reported reports reproduce research reserved reset resource resources respectively rest results right rights
    rise rotate row sagittal same sample saved sc scale scan scans scatter score secondary seconds section security
    seed seg segment segmentation segments separator september serial series set shade shall shape share shot show
    shown shows side sign signed silver single size slice slices small smaller smooth soft software solid source
    south space spatial special spleen sr stack start states station step storage stripe study style subject sum
    superior supplement table taken target template terms test tester text that the they thick thickness this
    threshold through time tip title together top torch total touch touching track tracking trade trademark trailer
    trans transform transformers translation tree true tumor tumour type types unaltered under unit united units
    university unknown unverified update us use used user users value version view viewport volume volumes voxel
    warm warning warnings warranty water weight west what where whether which white whose why wide width will window
    with within without word words work written xai yellow young zarr zero
    """)
